// The callers of a case, for each pool of the Go world.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

var c struct {
	Callers, Max_open, Max_idle                                                 int
	Connect, Hold, Again, Settles, Acquire_timeout, Max_lifetime, Max_idle_time float64
}
var opened int32

func seconds(s float64) time.Duration { return time.Duration(s * 1e9) }

// wait sleeps as long as a connection takes to open, and counts it.
func wait(ctx context.Context) error {
	select {
	case <-time.After(seconds(c.Connect)):
	case <-ctx.Done():
		return ctx.Err()
	}
	atomic.AddInt32(&opened, 1)
	return nil
}

func readCase() {
	if err := json.Unmarshal([]byte(os.Args[1]), &c); err != nil {
		panic(err)
	}
}

// drive lets the callers acquire, hold and release.
func drive(acquire func(context.Context) (func(), error)) {
	var lock sync.Mutex
	var all sync.WaitGroup
	served, failed, waited := 0, 0, 0.0
	call := func() {
		defer all.Done()
		ctx := context.Background()
		if c.Acquire_timeout > 0 {
			limited, cancel := context.WithTimeout(ctx, seconds(c.Acquire_timeout))
			defer cancel()
			ctx = limited
		}
		began := time.Now()
		release, err := acquire(ctx)
		took := time.Since(began).Seconds()
		lock.Lock()
		waited += took
		if err == nil {
			served++
		} else {
			failed++
		}
		lock.Unlock()
		if err == nil {
			time.Sleep(seconds(c.Hold))
			release()
		}
	}
	began := time.Now()
	for _, at := range []float64{0, c.Again} {
		time.Sleep(time.Until(began.Add(seconds(at))))
		for i := 0; i < c.Callers; i++ {
			all.Add(1)
			go call()
		}
		if c.Again == 0 {
			break
		}
	}
	all.Wait()
	time.Sleep(seconds(c.Settles))
	fmt.Printf("{\"served\": %d, \"failed\": %d, \"opened\": %d, \"total_wait\": %f}\n", served, failed, opened, waited)
}
