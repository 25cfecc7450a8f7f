import { createHash } from 'node:crypto';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { type Backend, backendNames, isBackend, limits, SwitchyardError } from '@switchyard/proto';

/** What one worker process may choose for itself. What the cluster must agree on arrives with the assignment. */
export interface WorkerFlags {
  coordinator: string;
  name: string;
  node: string;
  data: string[];
  threads: number;
  cpus: number[] | null;
  backend: Backend;
  isa: 'auto' | 'avx512' | 'avx2';
  tokenFile: string | null;
  tlsCa: string | null;
  tlsCert: string | null;
  tlsKey: string | null;
  tlsServerName: string | null;
  graceMs: number;
  supervised: boolean;
}

/** Of a worker's name in the names of its sockets. */
const FILE_NAME_CHARS = 24;

interface FlagRow<T> {
  flag: string;
  /** What stands for the value in the help; null: a switch. */
  value: string | null;
  /** Undefined: the flag must be given. */
  fallback: T | undefined;
  help: string;
  parse(text: string, flag: string): T;
}

type Table = { [K in keyof WorkerFlags]: FlagRow<WorkerFlags[K]> };

/** One row per flag: parsing, defaults and `--help` come from it. */
const table: Table = {
  coordinator: row('coordinator', 'ADDRESS', undefined, 'control address: host:port or unix:/path', text),
  name: row('name', 'NAME', undefined, 'name of this worker in the plan, stable across restarts, e.g. n0w1', text),
  node: row('node', 'NAME', undefined, 'name of the node it belongs to', text),
  data: row(
    'data',
    'ADDRESS',
    [],
    'where peers dial, best first, may be repeated: shm:///path, uds:///path, tcp://host:port, grpc://host:port (port 0: any), nats://host:port/subject. Default: shared memory and a socket of this machine',
    (value) => [value],
  ),
  threads: row('threads', 'N', 1, 'compute threads', positive),
  cpus: row('cpus', 'LIST', null, 'CPU numbers to pin the threads to, as many as threads: 0,2 or 0-3', cpuList),
  backend: row('backend', 'NAME', 'cpu', 'kernels: cpu, cuda:N (experts on GPU N), or cpu-ref (the slow oracle)', backend),
  isa: row('isa', 'NAME', 'auto', 'instruction set: auto, avx512, avx2', oneOf('auto', 'avx512', 'avx2')),
  tokenFile: row('token-file', 'FILE', null, 'file with the cluster token', text),
  tlsCa: row('tls-ca', 'FILE', null, 'certificate authority of the cluster (PEM); links and control stream use TLS', text),
  tlsCert: row('tls-cert', 'FILE', null, 'certificate of this worker (PEM)', text),
  tlsKey: row('tls-key', 'FILE', null, 'its private key (PEM)', text),
  tlsServerName: row('tls-server-name', 'NAME', null, "name that peers' certificates carry, where it is not their address", text),
  graceMs: row(
    'grace-ms',
    'MS',
    10_000,
    'on SIGTERM: how long running requests, also of workers that use its experts, may take to end',
    positive,
  ),
  supervised: row('supervised', null, false, 'end when the parent process does (stdin closes)', () => true),
};

/** @throws SwitchyardError `invalid_request` naming the flag. `null` when help was asked for. */
export function parseFlags(args: readonly string[]): WorkerFlags | null {
  const rows = Object.entries(table) as [keyof WorkerFlags, FlagRow<unknown>][];
  const options = Object.fromEntries(
    rows.map(([, { flag, value }]) => [flag, { type: value === null ? ('boolean' as const) : ('string' as const), multiple: true }]),
  );
  let values: Record<string, (string | boolean)[] | undefined>;
  try {
    const parsed = parseArgs({ args: [...args], options: { ...options, help: { type: 'boolean', multiple: true } } });
    values = parsed.values as typeof values;
  } catch (error) {
    throw new SwitchyardError('invalid_request', (error as Error).message, { cause: error });
  }
  if (values.help !== undefined) return null;
  const flags = Object.fromEntries(rows.map(([key, flagRow]) => [key, readFlag(flagRow, values[flagRow.flag])])) as unknown as WorkerFlags;
  if (flags.data.length === 0) {
    const socket = path.join(tmpdir(), `switchyard-${fileName(flags.name)}-${process.pid}`);
    flags.data = [`shm://${socket}.shm`, `uds://${socket}.sock`];
  }
  if (flags.cpus !== null && flags.cpus.length !== flags.threads) {
    throw bad('cpus', `${flags.cpus.length} CPUs`, `as many as --threads, ${flags.threads}`);
  }
  return Object.freeze(flags);
}

/** Plans allow any name; a socket's path has room for a short one. What a name loses, a hash makes up for: containers may share the folder, and number their processes alike. */
function fileName(name: string): string {
  const shown = name.replace(/[^\w.-]/g, '-').slice(0, FILE_NAME_CHARS);
  return shown === name ? name : `${shown}-${createHash('sha256').update(name).digest('hex').slice(0, 8)}`;
}

export function flagsHelp(): string {
  const lines = Object.values(table as Record<string, FlagRow<unknown>>).map(({ flag, value, fallback, help }) => {
    const left = `  --${flag}${value === null ? '' : ` ${value}`}`;
    const given =
      Array.isArray(fallback) || fallback === null || fallback === false
        ? ''
        : fallback === undefined
          ? ' (required)'
          : ` (default ${fallback})`;
    return `${left.padEnd(28)} ${help}${given}`;
  });
  lines.push(`${'  --help'.padEnd(28)} this`, `${'  --version'.padEnd(28)} the version`);
  return `A Switchyard worker: hosts experts and runs sequences for a coordinator.\n\n${lines.join('\n')}\n`;
}

function row<T>(
  flag: string,
  value: string | null,
  fallback: T | undefined,
  help: string,
  parse: (text: string, flag: string) => T,
): FlagRow<T> {
  return { flag, value, fallback, help, parse };
}

/** A repeated list flag adds up; of any other the last one counts. */
function readFlag({ flag, fallback, parse }: FlagRow<unknown>, given: (string | boolean)[] | undefined): unknown {
  if (given === undefined) {
    if (fallback === undefined) throw new SwitchyardError('invalid_request', `--${flag} is missing`, { param: flag });
    return Array.isArray(fallback) ? [...fallback] : fallback;
  }
  const parsed = given.map((one) => parse(String(one), flag));
  return Array.isArray(fallback) ? parsed.flat() : parsed.at(-1);
}

function text(value: string, flag: string): string {
  if (value === '') throw bad(flag, 'empty', 'some text');
  return value;
}

function backend(value: string, flag: string): Backend {
  if (!isBackend(value)) throw bad(flag, value, backendNames);
  return value;
}

function positive(value: string, flag: string): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number) || number < 1 || number > 2 ** 31 - 1) throw bad(flag, value, 'a whole number from 1 to 2147483647');
  return number;
}

function oneOf<const T extends string>(...names: T[]): (value: string, flag: string) => T {
  return (value, flag) => {
    const found = names.find((name) => name === value);
    if (found === undefined) throw bad(flag, value, `one of ${names.join(', ')}`);
    return found;
  };
}

function cpuList(value: string, flag: string): number[] {
  const cpus: number[] = [];
  for (const part of value.split(',')) {
    const range = /^(\d{1,4})(?:-(\d{1,4}))?$/.exec(part);
    if (range === null) throw bad(flag, value, 'CPU numbers such as 0,2 or 0-3');
    for (let cpu = Number(range[1]); cpu <= Number(range[2] ?? range[1]); cpu++) cpus.push(cpu);
  }
  if (cpus.length > limits.workersMax) throw bad(flag, `${cpus.length} CPUs`, `at most ${limits.workersMax}`);
  return cpus;
}

function bad(flag: string, value: string, limit: string): SwitchyardError {
  return new SwitchyardError('invalid_request', `--${flag} is ${value}; it must be ${limit}`, { param: flag });
}
