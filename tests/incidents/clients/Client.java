// A client of HikariCP for the generator of incidents: java Client BEHAVIOR key=value ...
// It prints "ready" once its pool works, and writes what the pool says of itself into the file of "metrics".
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.atomic.AtomicInteger;

public class Client {
    static final Map<String, String> options = new HashMap<>();
    static final long STARTED = System.nanoTime();
    static final AtomicInteger requests = new AtomicInteger();
    static final AtomicInteger timedOut = new AtomicInteger();
    static final List<Connection> kept = new ArrayList<>();
    static String behavior, statement, url;
    static HikariDataSource pool;

    static double number(String name, double otherwise) {
        return options.containsKey(name) ? Double.parseDouble(options.get(name)) : otherwise;
    }

    static void sleep(double seconds) throws InterruptedException {
        Thread.sleep((long) (seconds * 1000));
    }

    static void run(Connection connection) throws Exception {
        try (Statement each = connection.createStatement()) {
            each.execute(statement);
        }
    }

    static void request(Random random) throws Exception {
        int number = requests.incrementAndGet();
        int every = (int) number("every", 0);
        boolean keeps = every > 0 && number % every == 0;
        Connection connection = pool.getConnection();
        if (keeps && (behavior.equals("transaction-leak") || behavior.equals("idle-leak"))) {
            connection.setAutoCommit(behavior.equals("idle-leak"));
            run(connection);
            synchronized (kept) { kept.add(connection); }
            return;
        }
        try {
            if (behavior.equals("hold")) {
                boolean isPlain = "1".equals(options.get("plain"));
                connection.setAutoCommit(isPlain);
                run(connection);
                double from = number("hold_from", 1);
                sleep(from + random.nextDouble() * (number("hold_to", 2) - from));
                if (!isPlain) connection.commit();
            } else if (behavior.equals("nested")) {
                connection.setAutoCommit(false);
                run(connection);
                sleep(0.05);
                try (Connection second = pool.getConnection()) { run(second); }
                connection.commit();
            } else {
                run(connection);
            }
        } finally {
            connection.close();
        }
    }

    static void perRequest() throws Exception {
        Connection connection = DriverManager.getConnection(url, options.get("user"), "");
        run(connection);
        if ("1".equals(options.get("keep"))) { synchronized (kept) { kept.add(connection); } } else { connection.close(); }
    }

    static void work() {
        Random random = new Random();
        // Requests of real users do not begin at one instant.
        try { sleep(random.nextDouble()); } catch (InterruptedException end) { return; }
        double endsAt = System.nanoTime() / 1e9 + number("until", 1e9);
        while (System.nanoTime() / 1e9 < endsAt) {
            try {
                if (behavior.equals("per-request")) perRequest(); else request(random);
            } catch (Exception error) {
                timedOut.incrementAndGet();
                try { sleep(0.2); } catch (InterruptedException end) { return; }
            }
            try {
                sleep(number("think", 0.05) * (0.5 + random.nextDouble()));
                // A load that comes and goes: all workers at the same times.
                double cycle = number("on", 0) + number("off", 0);
                double at = cycle > 0 ? ((System.nanoTime() - STARTED) / 1e9) % cycle : 0;
                if (cycle > 0 && at > number("on", 0)) sleep(cycle - at);
            } catch (InterruptedException end) { return; }
        }
    }

    static void report() throws Exception {
        if (!options.containsKey("metrics")) return;
        var bean = pool.getHikariPoolMXBean();
        String text = String.format("{\"name\": \"main\", \"maximumPoolSize\": %d, \"totalConnections\": %d, "
            + "\"activeConnections\": %d, \"idleConnections\": %d, \"threadsAwaitingConnection\": %d, \"timed_out_total\": %d}",
            pool.getMaximumPoolSize(), bean.getTotalConnections(), bean.getActiveConnections(), bean.getIdleConnections(),
            bean.getThreadsAwaitingConnection(), timedOut.get());
        Path file = Path.of(options.get("metrics")), fresh = Path.of(options.get("metrics") + ".new");
        Files.writeString(fresh, text);
        Files.move(fresh, file, StandardCopyOption.REPLACE_EXISTING, StandardCopyOption.ATOMIC_MOVE);
    }

    public static void main(String[] words) throws Exception {
        behavior = words[0];
        for (int i = 1; i < words.length; i++) {
            int at = words[i].indexOf('=');
            options.put(words[i].substring(0, at), words[i].substring(at + 1));
        }
        statement = options.getOrDefault("statement", "SELECT 1");
        url = "jdbc:postgresql://" + options.get("host") + ":" + options.get("port") + "/" + options.get("dbname");
        if (options.containsKey("application")) url += "?ApplicationName=" + options.get("application");
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(url);
        config.setUsername(options.get("user"));
        config.setPassword("");
        config.setPoolName("main");
        config.setMaximumPoolSize((int) number("size", 10));
        config.setMinimumIdle((int) number("least", number("size", 10)));
        config.setConnectionTimeout((long) (1000 * Math.max(1, number("timeout", 30))));
        pool = new HikariDataSource(config);
        for (int i = 0; i < (int) number("workers", 4); i++) {
            Thread thread = new Thread(Client::work);
            thread.setDaemon(true);
            thread.start();
        }
        double settle = number("settle", 1);
        for (long round = 0; ; round++) {
            report();
            sleep(0.2);
            if (round == (long) (settle * 5)) System.out.println("ready");
        }
    }
}
