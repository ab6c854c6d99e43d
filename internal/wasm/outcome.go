package wasm

import (
	"errors"

	"github.com/containerd/errdefs"
)

// outcome is what a process of ours says to the shim. The zero value: all is well.
type outcome struct {
	Error   string  `json:"error,omitempty"`
	Invalid bool    `json:"invalid,omitempty"` // the module, or what was asked for, is to blame
	Cache   bool    `json:"cache,omitempty"`   // what the cache holds may be to blame
	Exit    *uint32 `json:"exit,omitempty"`    // the code that the program ended with
}

func outcomeOf(err error) outcome {
	if err == nil {
		return outcome{}
	}
	return outcome{Error: err.Error(), Invalid: errors.Is(err, errdefs.ErrInvalidArgument), Cache: errors.Is(err, errCompile)}
}

// err is the error of the other process, with its class.
func (o outcome) err() error {
	switch {
	case o.Error == "":
		return nil
	case o.Invalid:
		return remote{o.Error, errdefs.ErrInvalidArgument}
	}
	return errors.New(o.Error)
}

// remote is an error whose text names its class already.
type remote struct {
	text  string
	class error
}

func (r remote) Error() string { return r.text }
func (r remote) Unwrap() error { return r.class }
