// pgxpool of pgx 4 with a real server, whose connections take as much longer to open as the case says.
package main

import (
	"context"
	"os"
	"time"

	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

func main() {
	readCase()
	config, err := pgxpool.ParseConfig(os.Getenv("CONNINFO"))
	if err != nil {
		panic(err)
	}
	config.LazyConnect = true
	config.MaxConns = int32(c.Max_open)
	config.MaxConnLifetime = time.Hour
	if c.Max_lifetime > 0 {
		config.MaxConnLifetime = seconds(c.Max_lifetime)
	}
	if c.Max_idle_time > 0 {
		config.MaxConnIdleTime = seconds(c.Max_idle_time)
	}
	config.BeforeConnect = func(ctx context.Context, _ *pgx.ConnConfig) error { return wait(ctx) }
	pool, err := pgxpool.ConnectConfig(context.Background(), config)
	if err != nil {
		panic(err)
	}
	drive(func(ctx context.Context) (func(), error) {
		conn, err := pool.Acquire(ctx)
		return func() { conn.Release() }, err
	})
}
