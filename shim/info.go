package shim

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/api/types"
	"github.com/shimwright/shimwright/task"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// info describes the runtime to the daemon's introspection.
func (c *command) info() error {
	const most = 10 << 20
	in, err := io.ReadAll(io.LimitReader(c.stdin, most))
	if err != nil {
		return fmt.Errorf("read stdin: %w", err)
	}
	var opts *anypb.Any
	if len(in) > 0 {
		opts = new(anypb.Any)
		if err := proto.Unmarshal(in, opts); err != nil {
			return fmt.Errorf("decode runtime options from stdin: %w", err)
		}
	}
	info := new(types.RuntimeInfo)
	err = c.with(context.Background(), c.env(""), func(rt any) error {
		informer, ok := rt.(task.Informer)
		if !ok {
			return nil
		}
		i, err := informer.Info(context.Background(), opts)
		if err == nil && i != nil {
			info = i
		}
		return err
	})
	if err != nil {
		return err
	}
	if info.Name == "" {
		info.Name = c.name
	}
	if info.Version == nil {
		info.Version = &types.RuntimeVersion{Version: c.config.version, Revision: c.config.revision}
	}
	if info.Options == nil {
		info.Options = opts
	}
	out, err := proto.Marshal(info)
	if err != nil {
		return err
	}
	_, err = c.stdout.Write(out)
	return err
}
