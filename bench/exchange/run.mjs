// What a link costs: round trips and one-way throughput of every transport between two processes of one machine, against blocking C with the same framing, in
// alternating rounds. `node bench/exchange/run.mjs [--rounds 15] [--seconds 0.12] [--only uds,shm] [--out bench/results/exchange]`; needs a C compiler.
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { commandOf } from '../command.mjs';
import { freePort } from '../free-port.mjs';
import { atEnd } from '../leftovers.mjs';
import { measure, serveCommands } from './measure.mjs';
import { report } from './report.mjs';
import { linkOptions, subjects } from './subjects.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const { values: flags } = parseArgs({
  options: {
    rounds: { type: 'string', default: '15' },
    seconds: { type: 'string', default: '0.12' },
    only: { type: 'string' },
    out: { type: 'string', default: path.join(here, '..', 'results', 'exchange') },
  },
});
const rounds = Number(flags.rounds);
const secondsPerCell = Number(flags.seconds);

const KIB = 1024;
const MIB = 1024 * 1024;
/** The first two are what a decoding step and a larger batch send per layer; the rest are prefill. */
const cells = [
  { mode: 'echo', bytes: 8 * KIB },
  { mode: 'echo', bytes: 64 * KIB },
  { mode: 'stream', bytes: 64 * KIB },
  { mode: 'stream', bytes: MIB },
  { mode: 'stream', bytes: 8 * MIB },
];

const unknown = flags.only?.split(',').filter((name) => subjects[name] === undefined) ?? [];
if (unknown.length > 0) {
  process.stderr.write(`--only: there is no ${unknown.join(', ')}; there are ${Object.keys(subjects).join(', ')}\n`);
  process.exit(2);
}
const folder = mkdtempSync(path.join(os.tmpdir(), 'switchyard-exchange-'));
// A mapped file where shared memory is one: the temporary folder's disk would be written to.
const ringFile = path.join(existsSync('/dev/shm') ? '/dev/shm' : folder, `switchyard-exchange-${process.pid}`);
const children = [];
atEnd(() => {
  for (const child of children) child.kill();
  rmSync(ringFile, { force: true });
  rmSync(folder, { recursive: true, force: true });
});
const binary = path.join(folder, 'baseline');
execFileSync('cc', ['-O2', '-o', binary, path.join(here, 'baseline.c')], { stdio: 'inherit' });

/** Starts a process and waits for its first line. Nobody answers for one that ends, then or later. */
function start(command, args) {
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  children.push(child);
  child.once('exit', (status, signal) => {
    process.stderr.write(`${[command, ...args].join(' ')} ended with ${signal ?? `status ${status}`}\n`);
    process.exit(1);
  });
  return new Promise((resolve) => {
    child.stdout.setEncoding('utf8').once('data', (line) => resolve(line.trim()));
  });
}

/** A NATS server of this run's own, or null where none is installed. */
function startBroker() {
  const program = ['nats-server', '/usr/sbin/nats-server'].find((name) => spawnSync(name, ['--version']).status === 0);
  if (program === undefined) return null;
  const child = spawn(program, ['-a', '127.0.0.1', '-p', '-1'], { stdio: ['ignore', 'ignore', 'pipe'] });
  children.push(child);
  return new Promise((resolve, reject) => {
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text) => {
      said += text;
      const found = /client connections on \S*:(\d+)/.exec(said);
      if (found !== null && said.includes('Server is ready')) resolve({ port: found[1], pid: child.pid });
    });
    child.once('exit', () => reject(new Error(`nats-server ended: ${said}`)));
  });
}

/** What the kernel has counted for another process, in clock ticks of 10 ms. */
function processorSecondsOf(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** name → run(mode, bytes, frames) → { seconds, processorSeconds } */
const runners = {};

const baselines = { shm: ringFile, uds: path.join(folder, 'c.sock'), tcp: String(await freePort()) };
for (const [kind, where] of Object.entries(baselines)) {
  await start(binary, ['serve', kind, where]);
  runners[`C ${kind}`] = async (mode, bytes, frames) => {
    const printed = execFileSync(binary, ['measure', kind, where, mode, String(bytes), String(frames)], { encoding: 'utf8' });
    const [seconds, processorSeconds] = printed.split(' ').map(Number);
    return { seconds, processorSeconds };
  };
}

const broker = await startBroker();
const chosen = Object.entries(subjects).filter(
  ([name, { needsBroker }]) => (flags.only === undefined || flags.only.split(',').includes(name)) && (!needsBroker || broker !== null),
);
for (const [name, subject] of chosen) {
  const transport = subject.transport();
  const address = subject.sameProcess
    ? (await transport.listen(subject.address(folder, broker?.port), linkOptions, serveCommands)).address
    : await start(process.execPath, [path.join(here, 'peer.mjs'), name, folder, broker?.port ?? '']);
  const link = await transport.dial(address, linkOptions);
  const reception = { receive: () => {} };
  link.onFrame((frame) => reception.receive(frame));
  runners[name] = async (mode, bytes, frames) => {
    const before = subject.needsBroker ? processorSecondsOf(broker.pid) : 0;
    const measured = await measure(link, reception, mode, bytes, frames, subject.sameProcess);
    if (subject.needsBroker) measured.processorSeconds += processorSecondsOf(broker.pid) - before;
    return measured;
  };
}

const emptySamples = () => Object.fromEntries(Object.keys(runners).map((name) => [name, []]));
const results = cells.map((cell) => ({ ...cell, samples: emptySamples(), processor: emptySamples() }));
for (let round = 0; round < rounds; round++) {
  for (const cell of results) {
    for (const [name, run] of Object.entries(runners)) {
      // A short run warms up and tells how many frames fill the time.
      const few = cell.mode === 'echo' ? 50 : Math.max(2, Math.ceil((8 * MIB) / cell.bytes));
      const warm = await run(cell.mode, cell.bytes, few);
      const frames = Math.min(1_000_000, Math.max(few, Math.round((secondsPerCell / warm.seconds) * few)));
      const { seconds, processorSeconds } = await run(cell.mode, cell.bytes, frames);
      cell.samples[name].push(cell.mode === 'echo' ? seconds / frames : (frames * cell.bytes) / seconds);
      cell.processor[name].push(cell.mode === 'echo' ? processorSeconds / frames : processorSeconds / (frames * cell.bytes));
    }
  }
  process.stderr.write(`round ${round + 1} of ${rounds}\n`);
}

mkdirSync(path.dirname(flags.out), { recursive: true });
const machine = {
  cpu: os.cpus()[0].model,
  cores: os.cpus().length,
  memoryBytes: os.totalmem(),
  node: process.version,
  kernel: `${os.type()} ${os.release().split('-')[0]}`,
  date: new Date().toISOString().slice(0, 10),
  load: os.loadavg()[0],
};
const command = commandOf('bench/exchange/run.mjs', flags);
const unit = {
  samples: { echo: 'seconds per round trip', stream: 'bytes per second' },
  processor: { echo: 'processor seconds of both sides per round trip', stream: 'processor seconds of both sides per byte' },
};
writeFileSync(`${flags.out}.json`, `${JSON.stringify({ command, machine, unit, cells: results }, null, 1)}\n`);
const text = report({ command, machine, cells: results, subjects });
writeFileSync(`${flags.out}.md`, text);
process.stdout.write(text);
process.exit(0);
