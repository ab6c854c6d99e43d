package manager

import (
	"context"
	"errors"
	"fmt"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// taskClient is the task service of a shim under the name it serves. The messages are the same for both versions.
type taskClient struct {
	client  *ttrpc.Client
	service string
}

var _ taskapi.TTRPCTaskService = (*taskClient)(nil)

func newTaskClient(client *ttrpc.Client, version int32) *taskClient {
	return &taskClient{client, fmt.Sprintf("containerd.task.v%d.Task", version)}
}

// call is one request and its answer; errors have their errdefs class again.
func call[T any, Response interface {
	*T
	proto.Message
}](ctx context.Context, c *taskClient, method string, request proto.Message) (Response, error) {
	response := Response(new(T))
	if err := c.client.Call(ctx, c.service, method, request, response); err != nil {
		return nil, native(err)
	}
	return response, nil
}

func native(err error) error {
	switch {
	case errors.Is(err, ttrpc.ErrClosed):
		return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err // of this side's context; there is no status in it
	}
	return errgrpc.ToNative(err)
}

func (c *taskClient) State(ctx context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	return call[taskapi.StateResponse](ctx, c, "State", r)
}

func (c *taskClient) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	return call[taskapi.CreateTaskResponse](ctx, c, "Create", r)
}

func (c *taskClient) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	return call[taskapi.StartResponse](ctx, c, "Start", r)
}

func (c *taskClient) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	return call[taskapi.DeleteResponse](ctx, c, "Delete", r)
}

func (c *taskClient) Pids(ctx context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	return call[taskapi.PidsResponse](ctx, c, "Pids", r)
}

func (c *taskClient) Pause(ctx context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, c, "Pause", r)
}

func (c *taskClient) Resume(ctx context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, c, "Resume", r)
}

func (c *taskClient) Checkpoint(ctx context.Context, r *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, c, "Checkpoint", r)
}

func (c *taskClient) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, c, "Kill", r)
}

func (c *taskClient) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, c, "Exec", r)
}

func (c *taskClient) ResizePty(ctx context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, c, "ResizePty", r)
}

func (c *taskClient) CloseIO(ctx context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, c, "CloseIO", r)
}

func (c *taskClient) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, c, "Update", r)
}

func (c *taskClient) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	return call[taskapi.WaitResponse](ctx, c, "Wait", r)
}

func (c *taskClient) Stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	return call[taskapi.StatsResponse](ctx, c, "Stats", r)
}

func (c *taskClient) Connect(ctx context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	return call[taskapi.ConnectResponse](ctx, c, "Connect", r)
}

func (c *taskClient) Shutdown(ctx context.Context, r *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	return call[emptypb.Empty](ctx, c, "Shutdown", r)
}
