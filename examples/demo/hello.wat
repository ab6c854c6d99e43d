;; What the demo's second container runs: it says hello, reads a line on stdin, repeats it and ends with 8.
;; hello.wasm is made of it with wat2wasm (Debian's package wabt): wat2wasm hello.wat -o hello.wasm
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "hello from WebAssembly\nstdin  ")

  ;; out writes length bytes from address to stdout.
  (func $out (param $address i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $address))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))

  (func (export "_start")
    (call $out (i32.const 64) (i32.const 30))
    (i32.store (i32.const 0) (i32.const 128))
    (i32.store (i32.const 4) (i32.const 1024))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $out (i32.const 128) (i32.load (i32.const 8)))
    (call $exit (i32.const 8))))
