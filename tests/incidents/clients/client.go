// A client of database/sql with lib/pq for the generator of incidents: client BEHAVIOR key=value ...
// It prints "ready" once its pool works, and writes what the pool says of itself into the file of "metrics".
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	_ "github.com/lib/pq"
)

var options = map[string]string{}
var requests, timedOut int64
var started = time.Now()

func number(name string, otherwise float64) float64 {
	if value, err := strconv.ParseFloat(options[name], 64); err == nil {
		return value
	}
	return otherwise
}

func sleep(seconds float64) { time.Sleep(time.Duration(seconds * float64(time.Second))) }

func request(ctx context.Context, behavior, statement string, pool *sql.DB) error {
	count := atomic.AddInt64(&requests, 1)
	every := int64(number("every", 0))
	keeps := every > 0 && count%every == 0
	wait := ctx
	if timeout := number("timeout", 0); timeout > 0 {
		limited, cancel := context.WithTimeout(ctx, time.Duration(timeout*float64(time.Second)))
		defer cancel()
		wait = limited
	}
	connection, err := pool.Conn(wait)
	if err != nil {
		return err
	}
	if keeps && behavior == "idle-leak" {
		connection.ExecContext(ctx, statement)
		return nil
	}
	if keeps && behavior == "transaction-leak" {
		connection.ExecContext(ctx, "BEGIN")
		connection.ExecContext(ctx, statement)
		return nil
	}
	defer connection.Close()
	switch behavior {
	case "hold":
		plain := options["plain"] == "1"
		if !plain {
			connection.ExecContext(ctx, "BEGIN")
		}
		connection.ExecContext(ctx, statement)
		from := number("hold_from", 1)
		sleep(from + rand.Float64()*(number("hold_to", 2)-from))
		if !plain {
			connection.ExecContext(ctx, "COMMIT")
		}
	case "nested":
		connection.ExecContext(ctx, "BEGIN")
		connection.ExecContext(ctx, statement)
		sleep(0.05)
		second, err := pool.Conn(wait)
		if err != nil {
			connection.ExecContext(ctx, "ROLLBACK")
			return err
		}
		second.ExecContext(ctx, statement)
		second.Close()
		connection.ExecContext(ctx, "COMMIT")
	default:
		connection.ExecContext(ctx, statement)
	}
	return nil
}

func perRequest(ctx context.Context, dsn, statement string) error {
	pool, err := sql.Open("postgres", dsn)
	if err != nil {
		return err
	}
	_, err = pool.ExecContext(ctx, statement)
	if options["keep"] != "1" {
		pool.Close()
	}
	return err
}

func report(pool *sql.DB) {
	if options["metrics"] == "" {
		return
	}
	text, _ := json.Marshal(pool.Stats())
	if os.WriteFile(options["metrics"]+".new", text, 0o644) == nil {
		os.Rename(options["metrics"]+".new", options["metrics"])
	}
}

func main() {
	rand.Seed(time.Now().UnixNano())
	behavior := os.Args[1]
	for _, word := range os.Args[2:] {
		name, value, _ := strings.Cut(word, "=")
		options[name] = value
	}
	dsn := fmt.Sprintf("host=%s port=%s user=%s dbname=%s sslmode=disable", options["host"], options["port"], options["user"], options["dbname"])
	if options["application"] != "" {
		dsn += " application_name=" + options["application"]
	}
	statement := options["statement"]
	if statement == "" {
		statement = "SELECT 1"
	}
	pool, err := sql.Open("postgres", dsn)
	if err != nil {
		panic(err)
	}
	pool.SetMaxOpenConns(int(number("size", 10)))
	pool.SetMaxIdleConns(int(number("size", 10)))
	ctx := context.Background()
	for i := 0; i < int(number("workers", 4)); i++ {
		go func() {
			// Requests of real users do not begin at one instant.
			sleep(rand.Float64())
			began, until := time.Now(), number("until", 1e9)
			for time.Since(began).Seconds() < until {
				var err error
				if behavior == "per-request" {
					err = perRequest(ctx, dsn, statement)
				} else {
					err = request(ctx, behavior, statement, pool)
				}
				if err != nil {
					atomic.AddInt64(&timedOut, 1)
					sleep(0.2)
				}
				sleep(number("think", 0.05) * (0.5 + rand.Float64()))
				// A load that comes and goes: all workers at the same times.
				cycle := number("on", 0) + number("off", 0)
				if at := math.Mod(time.Since(started).Seconds(), cycle); cycle > 0 && at > number("on", 0) {
					sleep(cycle - at)
				}
			}
		}()
	}
	settled := time.Now().Add(time.Duration(number("settle", 1) * float64(time.Second)))
	said := false
	for {
		report(pool)
		sleep(0.2)
		if !said && time.Now().After(settled) {
			fmt.Println("ready")
			said = true
		}
	}
}
