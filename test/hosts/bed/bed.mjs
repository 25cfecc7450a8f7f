// Several hosts on one machine: each is a network namespace with an address of its own, and the network between them has a bit rate, a delay, a bounded queue and
// losses. Needs root, iproute2 and a C compiler. Two networks:
//
//   switch   a program in user space (switch.c) over TUN devices: any rate up to about 1 Gb/s, delay, loss, silent partitions, bytes by pair of hosts
//   veth     the kernel's own veth pairs and bridge with `tbf`: 10 Gb/s, no delay, no loss
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { processorSecondsOf } from './processor-time.mjs';

const here = path.dirname(new URL(import.meta.url).pathname);
/** Namespaces are named by the process that made them, so that a later bed finds what a killed guard left behind. */
const namePrefix = 'swybed';
/** A private network that no router has: 198.18.0.0/15 is set aside for measurements (RFC 2544). */
const addressPrefix = '198.18.7';
const hostsMax = 32;
/** Beds that this process has made; several may stand beside one another. */
let beds = 0;
/** Of TCP between the hosts: what most hosts use, whatever this one does. Others pace what they send by timers, which cost the processor time that all share. */
const congestionControl = 'cubic';
const probe = path.join(here, 'probe.mjs');
const probePort = 7;

/** Why no bed can be made here, or null. */
export function bedRefusal({ network = 'switch' } = {}) {
  if (process.platform !== 'linux') return `${process.platform} has no network namespaces`;
  if (process.getuid() !== 0) return 'network namespaces need root';
  if (spawnSync('ip', ['-V']).status !== 0) return 'iproute2 (the program `ip`) is missing';
  if (network === 'switch' && spawnSync(compiler(), ['--version']).status !== 0) return 'there is no C compiler (cc)';
  if (network === 'switch' && !existsSync('/dev/net/tun')) return '/dev/net/tun is missing';
  const probe = `${namePrefix}-${process.pid}-probe`;
  const made = spawnSync('ip', ['netns', 'add', probe], { encoding: 'utf8' });
  spawnSync('ip', ['netns', 'del', probe]);
  return made.status === 0 ? null : `network namespaces are not permitted: ${made.stderr.trim()}`;
}

/**
 * Makes the hosts and the network between them.
 *
 * @param hosts how many; host i (from 0) has the address 198.18.7.(i + 1)
 * @param rateMbit of each host's link, both directions at once
 * @param delayMicros one way, host to host; a veth pair has none
 * @param loss probability of each packet to vanish
 * @param queueMs what a link may have waiting, in time at its rate; more is dropped
 */
export async function startBed({
  hosts,
  network = 'switch',
  rateMbit = 1000,
  delayMicros = network === 'veth' ? 0 : 250,
  loss = 0,
  queueMs = 100,
}) {
  const refusal = bedRefusal({ network });
  if (refusal !== null) throw new Error(`no test bed: ${refusal}`);
  if (!(hosts >= 1 && hosts <= hostsMax)) throw new Error(`hosts is ${hosts}; it must be from 1 to ${hostsMax}`);
  removeAbandoned();
  const bed = ++beds;
  const names = Array.from({ length: hosts }, (_, i) => `${namePrefix}-${process.pid}-${bed}-${i + 1}`);
  // Names of devices have 15 characters at most, and each host's port adds three.
  const bridge = `swy${process.pid.toString(36)}x${bed}`;
  // In a session of its own: a Ctrl-C at the terminal ends us and not the guard, which then tidies up.
  const guard = spawn('sh', [path.join(here, 'guard.sh'), bridge, ...names], { stdio: ['pipe', 'ignore', 'ignore'], detached: true });
  for (const name of names) ip('netns', 'add', name);
  const link = { rateMbit, delayMicros, loss, queueMs };
  try {
    const fabric = network === 'veth' ? startVeth(bridge, names, link) : await startSwitch(names, link);
    for (const name of names)
      ip('-n', name, 'route', 'replace', `${addressPrefix}.0/24`, 'dev', 'lan0', 'scope', 'link', 'congctl', congestionControl);
    return new Bed(names, fabric, guard);
  } catch (error) {
    guard.stdin.end();
    await once(guard, 'exit');
    throw error;
  }
}

class Bed {
  #fabric;
  #guard;
  #children = new Set();

  constructor(names, fabric, guard) {
    this.#fabric = fabric;
    this.#guard = guard;
    this.hosts = names.map((name, i) => ({ name, address: `${addressPrefix}.${i + 1}` }));
  }

  /** Starts a program on a host; ended with the bed at the latest. */
  spawn(host, command, args = [], options = {}) {
    const child = spawn('ip', ['netns', 'exec', this.hosts[host].name, command, ...args.map(String)], options);
    this.#children.add(child);
    child.once('exit', () => this.#children.delete(child));
    return child;
  }

  /** Runs a program on a host to its end and returns what it wrote to standard output. */
  async run(host, command, args = [], { input = '', ...options } = {}) {
    const child = this.spawn(host, command, args, { ...options, stdio: ['pipe', 'pipe', 'pipe'] });
    const out = [];
    const err = [];
    child.stdout.on('data', (chunk) => out.push(chunk));
    child.stderr.on('data', (chunk) => err.push(chunk));
    child.stdin.on('error', () => {});
    child.stdin.end(input);
    const [status, signal] = await once(child, 'close');
    if (status === 0) return Buffer.concat(out).toString();
    const said = Buffer.concat(err).toString().slice(-2000) || Buffer.concat(out).toString().slice(-2000);
    throw new Error(`${path.basename(command)} on host ${host} ended with ${signal ?? status}: ${said}`);
  }

  /** What one TCP connection gets now: {roundTripMicros: {least, median}, bytesPerSecond}. */
  async measure(from, to, megabytes = 16) {
    const server = this.spawn(to, process.execPath, [probe, 'serve', probePort], { stdio: ['ignore', 'pipe', 'inherit'] });
    try {
      await once(server.stdout, 'data');
      return JSON.parse(await this.run(from, process.execPath, [probe, 'measure', this.hosts[to].address, probePort, megabytes]));
    } finally {
      server.kill();
      await once(server, 'exit');
    }
  }

  /** Other links from now on: {rateMbit, delayMicros, loss, queueMs}; what is left out stays. */
  setLink(link) {
    return this.#fabric.setLink(link);
  }

  /** Cuts a host off, silently: packets to and from it vanish. */
  partition(host) {
    return this.#fabric.cut(host, true);
  }

  heal(host) {
    return this.#fabric.cut(host, false);
  }

  /** {bytes, wireBytes, packets}: [from][to] since the start, {dropped}: [host], and {lateSeconds}: [host], summed over what arrived. With `veth`, totals by host only: {sent, received}: [host]. */
  counters() {
    return this.#fabric.counters();
  }

  /** Processor seconds that the network has taken so far as a program; none with `veth`, which is the kernel's. */
  processorSeconds() {
    return this.#fabric.processorSeconds();
  }

  /** Ends every program on the hosts, then the hosts. */
  async stop() {
    for (const child of this.#children) child.kill('SIGTERM');
    await this.#fabric.stop();
    this.#guard.stdin.end();
    if (this.#guard.exitCode === null) await once(this.#guard, 'exit');
  }
}

async function startSwitch(names, initial) {
  let link = initial;
  const folder = mkdtempSync(path.join(os.tmpdir(), 'switchyard-bed-'));
  const program = path.join(folder, 'switch');
  execFileSync(compiler(), ['-O2', '-o', program, path.join(here, 'switch.c')]);
  const values = () => [link.rateMbit, link.delayMicros, link.loss, link.queueMs].map(String);
  const child = spawn(program, [addressPrefix, ...values(), ...names], { stdio: ['pipe', 'pipe', 'pipe'], detached: true });
  let said = '';
  child.stderr.on('data', (chunk) => {
    said += chunk;
  });
  child.stdin.on('error', () => {});
  const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  // One command at a time: answers come in order.
  let last = Promise.resolve();
  const answer = async () => {
    const { value, done } = await answers.next();
    if (done) throw new Error(`the switch ended: ${said.trim()}`);
    return value;
  };
  const command = (line) => {
    last = last.then(() => {
      child.stdin.write(`${line}\n`);
      return answer();
    });
    return last;
  };
  if ((await answer()) !== 'ready') throw new Error(`the switch did not start: ${said.trim()}`);
  rmSync(folder, { recursive: true });
  return {
    async setLink(change) {
      link = { ...link, ...change };
      await command(`link ${values().join(' ')}`);
    },
    cut: (host, down) => command(`${down ? 'down' : 'up'} ${host + 1}`),
    counters: async () => JSON.parse(await command('report')),
    processorSeconds: () => processorSecondsOf(child.pid),
    async stop() {
      child.stdin.end();
      if (child.exitCode === null) await once(child, 'exit');
    },
  };
}

function startVeth(bridge, names, initial) {
  let link = initial;
  ip('link', 'add', bridge, 'type', 'bridge');
  ip('link', 'set', bridge, 'up');
  const outer = names.map((_, i) => `${bridge}p${i + 1}`);
  names.forEach((name, i) => {
    ip('link', 'add', outer[i], 'type', 'veth', 'peer', 'name', 'lan0', 'netns', name);
    ip('link', 'set', outer[i], 'master', bridge, 'up');
    ip('-n', name, 'addr', 'add', `${addressPrefix}.${i + 1}/24`, 'dev', 'lan0');
    ip('-n', name, 'link', 'set', 'lan0', 'up');
    ip('-n', name, 'link', 'set', 'lo', 'up');
  });
  const shape = () => {
    if (link.delayMicros !== 0 || link.loss !== 0) throw new Error('veth links have no delay and no loss: use the switch');
    // Room for two of the largest segments, and what the rate sends in a millisecond.
    const burst = Math.max(131_072, Math.round((link.rateMbit * 1e6) / 8 / 1000));
    const shaping = ['root', 'tbf', 'rate', `${link.rateMbit}mbit`, 'burst', `${burst}b`, 'latency', `${link.queueMs}ms`];
    names.forEach((name, i) => {
      execFileSync('tc', ['-n', name, 'qdisc', 'replace', 'dev', 'lan0', ...shaping]);
      execFileSync('tc', ['qdisc', 'replace', 'dev', outer[i], ...shaping]);
    });
  };
  shape();
  return {
    async setLink(change) {
      link = { ...link, ...change };
      shape();
    },
    async cut(host, down) {
      ip('link', 'set', outer[host], down ? 'nomaster' : 'master', ...(down ? [] : [bridge]));
    },
    async counters() {
      const read = (i, name) => Number(readFileSync(`/sys/class/net/${outer[i]}/statistics/${name}`, 'utf8'));
      return { sent: names.map((_, i) => read(i, 'rx_bytes')), received: names.map((_, i) => read(i, 'tx_bytes')) };
    },
    processorSeconds: () => 0,
    async stop() {},
  };
}

/** Hosts of processes that have died, and whose guard was killed too. */
function removeAbandoned() {
  if (!existsSync('/run/netns')) return;
  for (const name of readdirSync('/run/netns')) {
    const match = new RegExp(`^${namePrefix}-(\\d+)-`).exec(name);
    if (match !== null && !existsSync(`/proc/${match[1]}`)) spawnSync('ip', ['netns', 'del', name]);
  }
}

function ip(...args) {
  execFileSync('ip', args.map(String), { stdio: ['ignore', 'pipe', 'pipe'] });
}

function compiler() {
  return process.env.CC || 'cc';
}
