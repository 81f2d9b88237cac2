// HikariCP, DBCP2, c3p0 and the pool of Tomcat, with a driver that only sleeps.
import com.mchange.v2.c3p0.PoolBackedDataSource;
import com.mchange.v2.c3p0.WrapperConnectionPoolDataSource;
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
    pool.setMaxIdle(number("max_idle") > 0 ? (int) number("max_idle") : maxOpen);
    pool.setMaxWaitMillis(patience);
    if (number("max_lifetime") > 0) pool.setMaxConnLifetimeMillis((long) (number("max_lifetime") * 1000));
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
    if (number("max_lifetime") > 0) pool.setMaxAge((long) (number("max_lifetime") * 1000));
    if (number("max_idle_time") > 0) pool.setMinEvictableIdleTimeMillis((int) (number("max_idle_time") * 1000));
    return pool;
  }

  static DataSource c3p0(DataSource source, int maxOpen, int patience) throws Exception {
    WrapperConnectionPoolDataSource wrapper = new WrapperConnectionPoolDataSource();
    wrapper.setNestedDataSource(source);
    wrapper.setInitialPoolSize(1);
    wrapper.setMinPoolSize(1);
    wrapper.setMaxPoolSize(maxOpen);
    wrapper.setCheckoutTimeout(patience);
    PoolBackedDataSource pool = new PoolBackedDataSource();
    pool.setConnectionPoolDataSource(wrapper);
    return pool;
  }

  static DataSource newPool(String library, Object source, int maxOpen, int patience) throws Exception {
    switch (library) {
      case "hikaricp": return hikari((DataSource) source, maxOpen, patience);
      case "dbcp2": return dbcp((Driver) source, maxOpen, patience);
      case "c3p0": return c3p0((DataSource) source, maxOpen, patience);
      default: return tomcat((DataSource) source, maxOpen, patience);
    }
  }

  /** Both a DataSource and a Driver, whose connections take so long to open. */
  static Object newSource(AtomicInteger opened, long connectMillis) {
    ClassLoader loader = JdbcPools.class.getClassLoader();
    InvocationHandler answer = (p, m, a) -> {
      if (!m.getReturnType().equals(Connection.class)) return plain(m.getReturnType());
      Thread.sleep(connectMillis);
      opened.incrementAndGet();
      return Proxy.newProxyInstance(loader, new Class<?>[] {Connection.class}, (q, n, b) ->
          n.getName().equals("isValid") ? (Object) true : plain(n.getReturnType()));
    };
    return Proxy.newProxyInstance(loader, new Class<?>[] {DataSource.class, Driver.class}, answer);
  }

  public static void main(String[] arguments) throws Exception {
    text = arguments[1];
    int callers = (int) number("callers");
    double connect = number("connect"), hold = number("hold"), timeout = number("acquire_timeout");
    AtomicInteger served = new AtomicInteger(), failed = new AtomicInteger();
    DoubleAdder waited = new DoubleAdder();
    int maxOpen = (int) number("max_open");
    int patience = timeout > 0 ? (int) (timeout * 1000) : 600_000;
    // A first pool loads the classes, which takes longer than what is measured.
    for (int i = 0; i < 20; i++) {
      DataSource first = newPool(arguments[0], newSource(new AtomicInteger(), 0), maxOpen, patience);
      first.getConnection().close();
      first.getClass().getMethod("close").invoke(first);
    }
    // With a count of its own: c3p0 opens some connections of a first pool in the background, perhaps only now.
    AtomicInteger opened = new AtomicInteger();
    DataSource pool = newPool(arguments[0], newSource(opened, (long) (connect * 1000)), maxOpen, patience);
    double again = number("again");
    int callers_in_all = again > 0 ? 2 * callers : callers;
    CountDownLatch all = new CountDownLatch(callers_in_all);
    for (int i = 0; i < callers_in_all; i++) {
      double at = i < callers ? 0 : again;
      new Thread(() -> {
        Connection connection = null;
        long began = 0;
        try {
          Thread.sleep((long) (at * 1000));
          began = System.nanoTime();
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
    Thread.sleep((long) (number("settles") * 1000));
    System.out.printf("{\"served\": %d, \"failed\": %d, \"opened\": %d, \"total_wait\": %f}%n",
        served.get(), failed.get(), opened.get(), waited.sum());
    System.exit(0);
  }
}
