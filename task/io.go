package task

import (
	"fmt"
	"os"
)

// Chown gives the streams to uid and gid of the host, devices such as /dev/null apart, so that a process which may do
// nothing in the name of their owner – that of a user namespace – can open /dev/stdout anew.
func (io *IO) Chown(uid, gid int) error {
	for _, f := range []*os.File{io.Stdin, io.Stdout, io.Stderr} {
		if f == nil {
			continue
		}
		info, err := f.Stat()
		if err == nil && info.Mode()&os.ModeDevice == 0 {
			err = f.Chown(uid, gid)
		}
		if err != nil {
			return fmt.Errorf("give the process its streams: %w", err)
		}
	}
	return nil
}
