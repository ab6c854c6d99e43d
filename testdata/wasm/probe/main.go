// Command probe does what its arguments say, in order: a guest that tests look through.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	for args := os.Args[1:]; len(args) > 0; args = args[1:] {
		name, arg, _ := strings.Cut(args[0], "=")
		if err := do(name, arg); err != nil {
			fmt.Printf("%s: %v\n", args[0], err)
		}
	}
}

func do(name, arg string) error {
	switch name {
	case "args":
		fmt.Printf("%q\n", os.Args)
	case "env":
		fmt.Printf("%s\n", os.Getenv(arg))
	case "cwd":
		dir, err := os.Getwd()
		fmt.Println(dir)
		return err
	case "out":
		fmt.Println(arg)
	case "err":
		fmt.Fprintln(os.Stderr, arg)
	case "exit":
		code, err := strconv.ParseUint(arg, 0, 32)
		if err != nil {
			return err
		}
		os.Exit(int(code))
	case "panic":
		panic(arg)
	case "trap":
		var f func()
		f()
	case "cat":
		if arg != "" {
			data, err := os.ReadFile(arg)
			os.Stdout.Write(data)
			return err
		}
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	case "ls":
		entries, err := os.ReadDir(arg)
		for _, e := range entries {
			fmt.Println(e.Name(), e.Type())
		}
		return err
	case "write":
		path, text, _ := strings.Cut(arg, ":")
		return os.WriteFile(path, []byte(text), 0o644)
	case "append":
		path, text, _ := strings.Cut(arg, ":")
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteString(text)
		return err
	case "mkdir":
		return os.Mkdir(arg, 0o755)
	case "rm":
		return os.Remove(arg)
	case "stat":
		info, err := os.Stat(arg)
		if err == nil {
			fmt.Println(info.Mode(), info.Size())
		}
		return err
	case "symlink":
		target, link, _ := strings.Cut(arg, ":")
		return os.Symlink(target, link)
	case "link":
		from, to, _ := strings.Cut(arg, ":")
		return os.Link(from, to)
	case "rename":
		from, to, _ := strings.Cut(arg, ":")
		return os.Rename(from, to)
	case "readlink":
		target, err := os.Readlink(arg)
		fmt.Println(target)
		return err
	case "alloc": // MiB
		n, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		var held [][]byte
		for i := range n {
			held = append(held, make([]byte, 1<<20))
			held[i][0] = 1
		}
		fmt.Println("allocated", len(held))
	case "spin":
		for {
		}
	case "sleep":
		d, err := time.ParseDuration(arg)
		time.Sleep(d)
		return err
	case "serve": // on the first listener
		l, err := net.FileListener(os.NewFile(3+uintptr(atoi(arg)), "listener"))
		if err != nil {
			return err
		}
		return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello from", r.URL.Path) }))
	default:
		return fmt.Errorf("what is that?")
	}
	return nil
}

func atoi(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}
