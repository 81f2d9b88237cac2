// The pool of database/sql, with a driver that only sleeps.
package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"
)

type sleeper struct {
	connect time.Duration
	lock    sync.Mutex
	opened  int
}
type conn struct{}

func (s *sleeper) Connect(ctx context.Context) (driver.Conn, error) {
	select {
	case <-time.After(s.connect):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.lock.Lock()
	s.opened++
	s.lock.Unlock()
	return conn{}, nil
}
func (s *sleeper) Driver() driver.Driver                { return nil }
func (conn) Prepare(query string) (driver.Stmt, error) { return nil, driver.ErrSkip }
func (conn) Close() error                              { return nil }
func (conn) Begin() (driver.Tx, error)                 { return nil, driver.ErrSkip }

func seconds(s float64) time.Duration { return time.Duration(s * 1e9) }

func main() {
	var c struct {
		Callers, Max_open      int
		Connect, Hold, Timeout float64
	}
	if err := json.Unmarshal([]byte(os.Args[1]), &c); err != nil {
		panic(err)
	}
	driver := &sleeper{connect: seconds(c.Connect)}
	db := sql.OpenDB(driver)
	db.SetMaxOpenConns(c.Max_open)
	db.SetMaxIdleConns(c.Max_open)
	var lock sync.Mutex
	var all sync.WaitGroup
	served, failed, waited := 0, 0, 0.0
	for i := 0; i < c.Callers; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			ctx := context.Background()
			if c.Timeout > 0 {
				limited, cancel := context.WithTimeout(ctx, seconds(c.Timeout))
				defer cancel()
				ctx = limited
			}
			began := time.Now()
			conn, err := db.Conn(ctx)
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
				conn.Close()
			}
		}()
	}
	all.Wait()
	fmt.Printf("{\"served\": %d, \"failed\": %d, \"opened\": %d, \"total_wait\": %f}\n", served, failed, driver.opened, waited)
}
