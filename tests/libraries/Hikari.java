// HikariCP, with a DataSource that only sleeps.
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.lang.reflect.Proxy;
import java.sql.Connection;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.DoubleAdder;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.sql.DataSource;

public class Hikari {
  static String text;

  static double number(String key) {
    Matcher found = Pattern.compile("\"" + key + "\": ([0-9.]+)").matcher(text);
    found.find();
    return Double.parseDouble(found.group(1));
  }

  static Object plain(Class<?> type) {
    if (type == boolean.class) return true;
    if (type == int.class) return 0;
    return null;
  }

  public static void main(String[] arguments) throws Exception {
    text = arguments[0];
    int callers = (int) number("callers");
    double connect = number("connect"), hold = number("hold"), timeout = number("timeout");
    AtomicInteger opened = new AtomicInteger(), served = new AtomicInteger(), failed = new AtomicInteger();
    DoubleAdder waited = new DoubleAdder();
    ClassLoader loader = Hikari.class.getClassLoader();
    DataSource source = (DataSource) Proxy.newProxyInstance(loader, new Class<?>[] {DataSource.class}, (p, m, a) -> {
      if (!m.getName().equals("getConnection")) return plain(m.getReturnType());
      Thread.sleep((long) (connect * 1000));
      opened.incrementAndGet();
      return Proxy.newProxyInstance(loader, new Class<?>[] {Connection.class}, (q, n, b) -> plain(n.getReturnType()));
    });
    HikariConfig config = new HikariConfig();
    config.setDataSource(source);
    config.setMaximumPoolSize((int) number("max_open"));
    config.setMinimumIdle(0);
    config.setInitializationFailTimeout(-1);
    if (timeout > 0) config.setConnectionTimeout((long) (timeout * 1000));
    HikariDataSource pool = new HikariDataSource(config);
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
