package bundle

import (
	"fmt"

	"github.com/containerd/errdefs"
)

const maxID = 76

// CheckID refuses what may not be the id of a container, an exec or a namespace. Ids become file names and are:
// 1–76 characters, letters and digits in groups with single '.', '_' or '-' between them. ErrInvalidArgument.
func CheckID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("id is empty: %w", errdefs.ErrInvalidArgument)
	case len(id) > maxID:
		return fmt.Errorf("id %.20q… has %d characters, the limit is %d: %w", id, len(id), maxID, errdefs.ErrInvalidArgument)
	}
	separated := true // nothing yet, or a separator, stands before c
	for _, c := range []byte(id) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			separated = false
			continue
		case (c == '.' || c == '_' || c == '-') && !separated:
			separated = true
			continue
		}
		return badID(id)
	}
	if separated {
		return badID(id)
	}
	return nil
}

func badID(id string) error {
	return fmt.Errorf("id %q: want letters and digits with single '.', '_' or '-' between them: %w", id, errdefs.ErrInvalidArgument)
}
