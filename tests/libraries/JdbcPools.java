// HikariCP, DBCP2 and the pool of Tomcat, with a driver that only sleeps.
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Proxy;
import java.sql.Connection;
import java.sql.Driver;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.DoubleAdder;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.sql.DataSource;
import org.apache.commons.dbcp2.BasicDataSource;

public class JdbcPools {
  static String text;
  static volatile long connectMillis = 0;

  static double number(String key) {
    Matcher found = Pattern.compile("\"" + key + "\": ([0-9.]+)").matcher(text);
    found.find();
    return Double.parseDouble(found.group(1));
  }

  static Object plain(Class<?> type) {
    if (type == boolean.class) return false;
    if (type == int.class) return 0;
    return null;
  }

  static DataSource hikari(DataSource source, int maxOpen, int patience) {
    HikariConfig config = new HikariConfig();
    config.setDataSource(source);
    config.setMaximumPoolSize(maxOpen);
    config.setMinimumIdle(0);
    config.setInitializationFailTimeout(-1);
    config.setConnectionTimeout(patience);
    return new HikariDataSource(config);
  }

  static DataSource dbcp(Driver driver, int maxOpen, int patience) {
    BasicDataSource pool = new BasicDataSource();
    pool.setDriver(driver);
    pool.setUrl("jdbc:sleep");
    pool.setMaxTotal(maxOpen);
    pool.setMaxIdle(maxOpen);
    pool.setMaxWaitMillis(patience);
    return pool;
  }

  static DataSource tomcat(DataSource source, int maxOpen, int patience) {
    org.apache.tomcat.jdbc.pool.DataSource pool = new org.apache.tomcat.jdbc.pool.DataSource();
    pool.setDataSource(source);
    pool.setMaxActive(maxOpen);
    pool.setMaxIdle(maxOpen);
    pool.setInitialSize(0);
    pool.setMinIdle(0);
    pool.setMaxWait(patience);
    return pool;
  }

  static DataSource newPool(String library, Object source, int maxOpen, int patience) {
    if (library.equals("hikaricp")) return hikari((DataSource) source, maxOpen, patience);
    return library.equals("dbcp2") ? dbcp((Driver) source, maxOpen, patience)
        : tomcat((DataSource) source, maxOpen, patience);
  }

  public static void main(String[] arguments) throws Exception {
    text = arguments[1];
    int callers = (int) number("callers");
    double connect = number("connect"), hold = number("hold"), timeout = number("timeout");
    AtomicInteger opened = new AtomicInteger(), served = new AtomicInteger(), failed = new AtomicInteger();
    DoubleAdder waited = new DoubleAdder();
    ClassLoader loader = JdbcPools.class.getClassLoader();
    InvocationHandler answer = (p, m, a) -> {
      if (!m.getReturnType().equals(Connection.class)) return plain(m.getReturnType());
      Thread.sleep(connectMillis);
      opened.incrementAndGet();
      return Proxy.newProxyInstance(loader, new Class<?>[] {Connection.class}, (q, n, b) ->
          n.getName().equals("isValid") ? (Object) true : plain(n.getReturnType()));
    };
    Object source = Proxy.newProxyInstance(loader, new Class<?>[] {DataSource.class, Driver.class}, answer);
    int maxOpen = (int) number("max_open");
    int patience = timeout > 0 ? (int) (timeout * 1000) : 600_000;
    // A first pool loads the classes, which takes longer than what is measured.
    for (int i = 0; i < 20; i++) {
      newPool(arguments[0], source, maxOpen, patience).getConnection().close();
    }
    opened.set(0);
    connectMillis = (long) (connect * 1000);
    DataSource pool = newPool(arguments[0], source, maxOpen, patience);
    CountDownLatch all = new CountDownLatch(callers);
    for (int i = 0; i < callers; i++) {
      new Thread(() -> {
        long began = System.nanoTime();
        Connection connection = null;
        try {
          connection = pool.getConnection();
        } catch (Exception error) {
          // Counted below.
        }
        waited.add((System.nanoTime() - began) / 1e9);
        (connection == null ? failed : served).incrementAndGet();
        try {
          if (connection != null) {
            Thread.sleep((long) (hold * 1000));
            connection.close();
          }
        } catch (Exception error) {
          error.printStackTrace();
        }
        all.countDown();
      }).start();
    }
    all.await();
    System.out.printf("{\"served\": %d, \"failed\": %d, \"opened\": %d, \"total_wait\": %f}%n",
        served.get(), failed.get(), opened.get(), waited.sum());
    System.exit(0);
  }
}
