// The pools of node-postgres (pg-pool), knex (tarn) and mysql2, with clients that only sleep.
const { EventEmitter } = require('events');
const path = require('path');

const [library, text] = process.argv.slice(2);
const c = JSON.parse(text);
const sleep = (s) => new Promise((done) => setTimeout(done, s * 1000));
let opened = 0;

function pgPool() {
  class Client extends EventEmitter {
    constructor() {
      super();
      this._queryable = true;
      this._ending = false;
    }
    connect(done) {
      setTimeout(() => { opened += 1; done(null); }, c.connect * 1000);
    }
    end(done) { if (done) done(); return Promise.resolve(); }
    unref() {}
    ref() {}
  }
  const Pool = require('pg-pool');
  const options = { Client, max: c.max_open, idleTimeoutMillis: c.max_idle_time * 1000 };
  if (c.acquire_timeout) options.connectionTimeoutMillis = c.acquire_timeout * 1000;
  if (c.max_lifetime) options.maxLifetimeSeconds = c.max_lifetime;
  const pool = new Pool(options);
  return { acquire: () => pool.connect(), release: (client) => client.release() };
}

function knex() {
  const { Client } = require('knex');
  class Sleeper extends Client {
    _driver() { return {}; }
    async acquireRawConnection() { await sleep(c.connect); opened += 1; return {}; }
    async destroyRawConnection() {}
    validateConnection() { return true; }
  }
  Object.assign(Sleeper.prototype, { dialect: 'sleeper', driverName: 'sleeper' });
  const pool = { min: 0, max: c.max_open };
  if (c.max_idle_time) pool.idleTimeoutMillis = c.max_idle_time * 1000;
  if (c.max_lifetime) pool.maxConnectionLifetimeMillis = c.max_lifetime * 1000;
  const patience = (c.acquire_timeout || 600) * 1000;
  const client = new Sleeper({ client: 'sleeper', connection: {}, pool, acquireConnectionTimeout: patience });
  return { acquire: () => client.acquireConnection(), release: (one) => client.releaseConnection(one) };
}

function mysql2() {
  class Sleeper extends EventEmitter {
    constructor(pool) {
      super();
      this._pool = pool;
      this.lastActiveTime = Date.now();
    }
    connect(done) {
      setTimeout(() => { opened += 1; done(null); }, c.connect * 1000);
    }
    release() {
      this.lastActiveTime = Date.now();
      this._pool.releaseConnection(this);
    }
    destroy() {
      const { _allConnections: all, _freeConnections: free } = this._pool;
      for (const queue of [all, free]) {
        for (let i = 0; i < queue.length; i++) if (queue.get(i) === this) { queue.removeOne(i); break; }
      }
    }
  }
  const lib = path.join(process.cwd(), 'node_modules', 'mysql2', 'lib');
  const connection = path.join(lib, 'pool_connection.js');
  require.cache[connection] = { id: connection, filename: connection, loaded: true, exports: Sleeper };
  const BasePool = require(path.join(lib, 'base', 'pool.js'));
  const PoolConfig = require(path.join(lib, 'pool_config.js'));
  const options = { connectionLimit: c.max_open };
  if (c.max_idle) options.maxIdle = c.max_idle;
  if (c.max_idle_time) options.idleTimeout = c.max_idle_time * 1000;
  const pool = new BasePool({ config: new PoolConfig(options) });
  return {
    acquire: () => new Promise((done, fail) => pool.getConnection((error, one) => (error ? fail(error) : done(one)))),
    release: (one) => one.release(),
  };
}

async function main() {
  const pool = { 'node-pg': pgPool, knex, mysql2 }[library]();
  const figures = { served: 0, failed: 0, total_wait: 0 };
  const call = async (_, at) => {
    await sleep(at < c.callers ? 0 : c.again);
    const began = process.hrtime.bigint();
    let client = null;
    try { client = await pool.acquire(); } catch (error) { /* counted below */ }
    figures.total_wait += Number(process.hrtime.bigint() - began) / 1e9;
    if (client === null) { figures.failed += 1; return; }
    figures.served += 1;
    await sleep(c.hold);
    pool.release(client);
  };
  await Promise.all(Array.from({ length: c.again ? 2 * c.callers : c.callers }, call));
  await sleep(c.settles);
  console.log(JSON.stringify({ ...figures, opened }));
  process.exit(0);
}

main();
