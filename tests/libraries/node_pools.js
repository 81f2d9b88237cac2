// The pools of node-postgres (pg-pool) and knex (tarn), with clients that only sleep.
const { EventEmitter } = require('events');

const [library, text] = process.argv.slice(2);
const c = JSON.parse(text);
const sleep = (s) => new Promise((done) => setTimeout(done, s * 1000));
let opened = 0;

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

function pgPool() {
  const Pool = require('pg-pool');
  const options = { Client, max: c.max_open, idleTimeoutMillis: 0 };
  if (c.timeout) options.connectionTimeoutMillis = c.timeout * 1000;
  const pool = new Pool(options);
  return { acquire: () => pool.connect(), release: (client) => client.release() };
}

function tarn() {
  const { Pool } = require('tarn');
  const pool = new Pool({
    create: async () => { await sleep(c.connect); opened += 1; return {}; },
    destroy: () => {},
    min: 0,
    max: c.max_open,
    acquireTimeoutMillis: (c.timeout || 600) * 1000,
  });
  return { acquire: () => pool.acquire().promise, release: (one) => pool.release(one) };
}

async function main() {
  const pool = library === 'tarn' ? tarn() : pgPool();
  const figures = { served: 0, failed: 0, total_wait: 0 };
  await Promise.all(Array.from({ length: c.callers }, async () => {
    const began = process.hrtime.bigint();
    let client = null;
    try { client = await pool.acquire(); } catch (error) { /* counted below */ }
    figures.total_wait += Number(process.hrtime.bigint() - began) / 1e9;
    if (client === null) { figures.failed += 1; return; }
    figures.served += 1;
    await sleep(c.hold);
    pool.release(client);
  }));
  console.log(JSON.stringify({ ...figures, opened }));
  process.exit(0);
}

main();
