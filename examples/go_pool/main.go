// The program of the second story: many goroutines share one sql.DB, without limits or with them.
//
//	go run main.go -limits=false "host=127.0.0.1 port=5432 dbname=app user=app sslmode=disable"
//
// Without limits each goroutine can open a connection; with limits there are at most 30 for each process.
package main

import (
	"database/sql"
	"flag"
	"fmt"
	"log"
	"sync"
	"time"

	_ "github.com/lib/pq"
)

func main() {
	limits := flag.Bool("limits", true, "set MaxOpenConns 30, MaxIdleConns 20, ConnMaxLifetime 30 min")
	flag.Parse()

	db, err := sql.Open("postgres", flag.Arg(0))
	if err != nil {
		log.Fatal(err)
	}
	if *limits {
		db.SetMaxOpenConns(30)
		db.SetMaxIdleConns(20)
		db.SetConnMaxLifetime(30 * time.Minute)
	}

	peak, failed := 0, 0
	var lock sync.Mutex
	var requests sync.WaitGroup
	for worker := 0; worker < 60; worker++ {
		requests.Add(1)
		go func() {
			defer requests.Done()
			for i := 0; i < 20; i++ {
				_, err := db.Exec("SELECT pg_sleep(0.05)")
				lock.Lock()
				if err != nil {
					failed++
				}
				if open := db.Stats().OpenConnections; open > peak {
					peak = open
				}
				lock.Unlock()
			}
		}()
	}
	requests.Wait()

	stats := db.Stats()
	fmt.Printf("peak %d open, %d failed, closed by max idle %d, waited %d times for %v in all\n",
		peak, failed, stats.MaxIdleClosed, stats.WaitCount, stats.WaitDuration.Round(time.Millisecond))
}
