// A client of node-postgres for the generator of incidents: node client.js BEHAVIOR key=value ...
// It prints "ready" once its pool works, and writes what the pool says of itself into the file of `metrics`.
const { Pool, Client } = require('pg');
const fs = require('fs');

const behavior = process.argv[2];
const options = Object.fromEntries(process.argv.slice(3).map((word) => [word.slice(0, word.indexOf('=')), word.slice(word.indexOf('=') + 1)]));
const number = (name, otherwise) => (name in options ? Number(options[name]) : otherwise);
const where = {
  host: options.host, port: number('port'), user: options.user, database: options.dbname,
  ...(options.application ? { application_name: options.application } : {}),
};
const pool = new Pool({ ...where, max: number('size', 10), connectionTimeoutMillis: number('timeout', 0) * 1000, idleTimeoutMillis: 0 });
pool.on('error', () => {});
const sleep = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));
const statement = options.statement || 'SELECT 1';
const plain = options.plain === '1';
const began = Date.now();
let requests = 0;
let timedOut = 0;

async function request(draw) {
  requests += 1;
  const every = number('every', 0);
  const client = await pool.connect();
  const keeps = every > 0 && requests % every === 0;
  if (behavior === 'transaction-leak' && keeps) { await client.query('BEGIN'); await client.query(statement); return; }
  if (behavior === 'idle-leak' && keeps) { await client.query(statement); return; }
  try {
    if (behavior === 'hold') {
      if (!plain) await client.query('BEGIN');
      await client.query(statement); await sleep(draw());
      if (!plain) await client.query('COMMIT');
    } else if (behavior === 'nested') {
      await client.query('BEGIN'); await client.query(statement); await sleep(0.05);
      const second = await pool.connect();
      await second.query(statement); second.release(); await client.query('COMMIT');
    } else {
      await client.query(statement);
    }
  } finally { client.release(); }
}

async function perRequest() {
  const client = new Client(where);
  client.on('error', () => {});
  await client.connect();
  await client.query(statement);
  if (options.keep !== '1') await client.end();
}

async function worker() {
  const think = number('think', 0.05);
  // Requests of real users do not begin at one instant.
  await sleep(Math.random());
  const draw = () => number('hold_from', 1) + Math.random() * (number('hold_to', 2) - number('hold_from', 1));
  const endsAt = Date.now() + 1000 * number('until', Infinity);
  while (Date.now() < endsAt) {
    try { await (behavior === 'per-request' ? perRequest() : request(draw)); } catch (error) {
      if (/timeout/.test(error.message)) timedOut += 1;
      await sleep(0.2);
    }
    await sleep(think * (0.5 + Math.random()));
    // A load that comes and goes: all workers at the same times.
    const cycle = number('on', 0) + number('off', 0);
    const at = ((Date.now() - began) / 1000) % cycle;
    if (cycle && at > number('on', 0)) await sleep(cycle - at);
  }
}

function report() {
  if (!options.metrics) return;
  const figures = { library: 'node-pg', name: 'main', max_open: number('size', 10), totalCount: pool.totalCount, idleCount: pool.idleCount, waitingCount: pool.waitingCount, timed_out_total: timedOut };
  fs.writeFileSync(options.metrics + '.new', JSON.stringify(figures));
  fs.renameSync(options.metrics + '.new', options.metrics);
}

report();
setInterval(report, 200);
for (let i = 0; i < number('workers', 4); i += 1) worker();
setTimeout(() => console.log('ready'), number('settle', 1) * 1000);
