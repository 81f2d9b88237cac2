// The pool of database/sql, with a driver that only sleeps.
package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
)

type sleeper struct{}
type conn struct{}

func (sleeper) Connect(ctx context.Context) (driver.Conn, error) { return conn{}, wait(ctx) }
func (sleeper) Driver() driver.Driver                            { return nil }
func (conn) Prepare(query string) (driver.Stmt, error)           { return nil, driver.ErrSkip }
func (conn) Close() error                                        { return nil }
func (conn) Begin() (driver.Tx, error)                           { return nil, driver.ErrSkip }

func main() {
	readCase()
	db := sql.OpenDB(sleeper{})
	db.SetMaxOpenConns(c.Max_open)
	db.SetMaxIdleConns(c.Max_open)
	if c.Max_idle > 0 {
		db.SetMaxIdleConns(c.Max_idle)
	}
	db.SetConnMaxLifetime(seconds(c.Max_lifetime))
	db.SetConnMaxIdleTime(seconds(c.Max_idle_time))
	drive(func(ctx context.Context) (func(), error) {
		conn, err := db.Conn(ctx)
		return func() { conn.Close() }, err
	})
}
