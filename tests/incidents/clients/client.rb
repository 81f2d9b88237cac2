# A client of ActiveRecord for the generator of incidents: ruby client.rb BEHAVIOR key=value ...
# It prints "ready" once its pool works, and writes what the pool says of itself into the file of `metrics`.
require 'json'
require 'active_record'

# As Puma names its workers; the pg gem takes it for an application_name where none is given.
$0 = 'puma'
$stdout.sync = true
behavior, *words = ARGV
OPTIONS = words.to_h { |word| word.split('=', 2) }
def number(name, otherwise) = OPTIONS.key?(name) ? OPTIONS[name].to_f : otherwise

statement = OPTIONS['statement'] || 'SELECT 1'
where = { host: OPTIONS['host'], port: OPTIONS['port'].to_i, user: OPTIONS['user'], dbname: OPTIONS['dbname'] }
where[:application_name] = OPTIONS['application'] if OPTIONS['application']
timeout = number('timeout', 0)
ActiveRecord::Base.establish_connection(
  adapter: 'postgresql', pool: number('size', 10).to_i, checkout_timeout: timeout.positive? ? timeout : 1e6,
  idle_timeout: 0, prepared_statements: !OPTIONS.key?('pooled'), **where.except(:user, :dbname),
  username: where[:user], database: where[:dbname]
)
pool = ActiveRecord::Base.connection_pool
counted = Mutex.new
requests = 0
kept = []

request = lambda do
  every = number('every', 0).to_i
  turn = counted.synchronize { requests += 1 }
  connection = pool.checkout
  if every.positive? && (turn % every).zero? && %w[idle-leak transaction-leak].include?(behavior)
    connection.execute('BEGIN') if behavior == 'transaction-leak'
    connection.execute(statement)
    kept << connection
    next
  end
  begin
    in_transaction = behavior == 'nested' || (behavior == 'hold' && OPTIONS['plain'] != '1')
    connection.execute('BEGIN') if in_transaction
    connection.execute(statement)
    if behavior == 'hold'
      sleep(rand(number('hold_from', 1)..number('hold_to', 2)))
    elsif behavior == 'nested'
      sleep(0.05)
      begin
        second = pool.checkout
        second.execute(statement)
      rescue StandardError
        connection.execute('ROLLBACK')
        raise
      ensure
        pool.checkin(second) if second
      end
    end
    connection.execute('COMMIT') if in_transaction
  ensure
    pool.checkin(connection)
  end
end

per_request = lambda do
  connection = PG.connect(**where)
  connection.exec(statement)
  OPTIONS['keep'] == '1' ? kept << connection : connection.close
end

now = -> { Process.clock_gettime(Process::CLOCK_MONOTONIC) }
began = now.call
work = lambda do
  sleep(rand) # requests of real users do not begin at one instant
  ends_at = now.call + number('until', Float::INFINITY)
  while now.call < ends_at
    begin
      behavior == 'per-request' ? per_request.call : request.call
    rescue ActiveRecord::ActiveRecordError, PG::Error
      sleep(0.2)
    end
    sleep(number('think', 0.05) * rand(0.5..1.5))
    # A load that comes and goes: all workers at the same times.
    cycle = number('on', 0) + number('off', 0)
    at = cycle.positive? ? (now.call - began) % cycle : 0
    sleep(cycle - at) if cycle.positive? && at > number('on', 0)
  end
end

report = lambda do
  next unless OPTIONS['metrics']

  File.write("#{OPTIONS['metrics']}.new", JSON.generate(pool.stat))
  File.rename("#{OPTIONS['metrics']}.new", OPTIONS['metrics'])
end

number('workers', 4).to_i.times { Thread.new(&work) }
(0..).each do |round|
  report.call
  sleep(0.2)
  puts 'ready' if round == (number('settle', 1) * 5).to_i
end
