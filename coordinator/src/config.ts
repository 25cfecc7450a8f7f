import { hostNamesPattern, limits, parseLossy, stepDefaults } from '@switchyard/proto';
import { z } from 'zod';
import { helpOf, option, readOptions, type Values, withDefaults } from './option-table.ts';

export const environmentPrefix = 'SWITCHYARD_COORDINATOR_';

const text = z.string().min(1, 'it must not be empty');
const optionalText = text.nullable();
const whole = (min: number, max: number) =>
  z
    .string()
    // Number takes '' for 0: a variable of the environment that is set to nothing.
    .refine((text) => /^\d+$/.test(text) && Number(text) >= min && Number(text) <= max, `it must be a whole number from ${min} to ${max}`)
    .transform(Number);
const oneOf = <const T extends string>(...names: T[]) => z.enum(names, { error: `it must be one of ${names.join(', ')}` });
const onOff = z.boolean({ error: 'it must be true or false' });
const lossyText = z.string().superRefine((list, context) => {
  try {
    parseLossy(list);
  } catch (error) {
    context.addIssue({ code: 'custom', message: (error as Error).message });
  }
});
const hostNames = z.union([z.literal(''), z.string().regex(hostNamesPattern)], {
  error: 'it must be names without ports, with commas between, or *',
});
const hostAndPort = z.string().regex(/^(\[[^\]]+\]|[^:[\]]+):\d{1,5}$/, 'it must be HOST:PORT');

/** Every option of the coordinator. Flags, environment names, defaults, help and docs/api.md derive from this table. */
export const options = {
  model: option(text, null, 'DIR', 'folder of the checkpoint, as workers see it too'),
  modelName: option(optionalText, null, 'NAME', "name that clients ask for; else the folder's"),
  listen: option(hostAndPort, '127.0.0.1:8000', 'HOST:PORT', 'address of the HTTP API; port 0 takes any'),
  allowedHosts: option(
    hostNames,
    '',
    'LIST',
    'names, with commas between, by which a server without keys may be asked for on loopback besides localhost, as through a proxy; *: any',
  ),
  control: option(
    text,
    '127.0.0.1:8001',
    'ADDRESS',
    'where workers attach: HOST:PORT (a name means the first of its addresses) or unix:/PATH',
  ),
  healthPort: option(whole(0, 65_535).nullable(), null, 'PORT', 'answers /health/* from a thread of its own, also while the API is busy'),
  nodes: option(whole(1, limits.nodesMax), 1, 'N', 'nodes of the contiguous plan'),
  workersPerNode: option(whole(1, limits.workersMax), 1, 'N', 'workers of each node of the contiguous plan, named n0w0, n0w1, …'),
  plan: option(optionalText, null, 'FILE', 'placement plan; else experts are laid out contiguously'),
  tokenFile: option(optionalText, null, 'FILE', 'secret that workers must present'),
  tlsCert: option(optionalText, null, 'FILE', 'certificate of the control address (PEM)'),
  tlsKey: option(optionalText, null, 'FILE', 'its key'),
  tlsCa: option(optionalText, null, 'FILE', 'demand worker certificates that this authority signed'),
  numeric: option(oneOf('auto', 'bf16', 'f32'), 'auto', 'CLASS', 'what inputs of linear layers are rounded to: auto, bf16, f32'),
  expertDtype: option(oneOf('stored', 'int8', 'int4'), 'stored', 'DTYPE', 'how experts are held: stored, int8, int4'),
  denseDtype: option(oneOf('stored', 'int8'), 'stored', 'DTYPE', 'how other weights are held: stored, int8'),
  sum: option(oneOf('exact', 'fast'), 'exact', 'MODE', 'how contributions of experts are added: exact, fast'),
  lossy: option(
    lossyText,
    '',
    'LIST',
    'give up exactness for less traffic: node-limit=N (a token uses experts on N nodes at most), wire=int8 or wire=fp8 (rows between workers), with commas between',
  ),
  maxContext: option(whole(0, 2 ** 31), 0, 'TOKENS', 'tokens of one sequence, within what the model was made for; 0: all of that'),
  kvBlocks: option(whole(0, 2 ** 31), 0, 'N', "blocks of 16 tokens in each worker's cache; 0: from --kv-bytes"),
  kvBytes: option(whole(0, 2 ** 50), 512 * 1024 * 1024, 'BYTES', "size of each worker's cache"),
  maxBatchRows: option(whole(1, limits.frameRowsMax), stepDefaults.maxBatchRows, 'ROWS', 'rows of one step: prefill chunk and decodes'),
  // What a worker takes at most.
  maxSequences: option(
    whole(1, limits.requestsRunningMax),
    stepDefaults.maxSequences,
    'N',
    'sequences that one worker runs at a time, no more than a step has rows',
  ),
  draftMax: option(
    whole(0, limits.draftMax),
    stepDefaults.draftMax,
    'TOKENS',
    'tokens that a stream may guess from its own text or its prediction for one step to check; 0: none',
  ),
  prefixCache: option(onOff, true, null, 'share the cache of common prompt beginnings inside a tenant'),
  rowDeadlineMs: option(
    whole(1, 86_400_000),
    limits.rowDeadlineMs,
    'MS',
    'a row that has not come back by then goes to another worker that holds its experts; where there is none its request fails',
  ),
  requestsRunningMax: option(
    whole(1, 65_536),
    limits.requestsRunningMax,
    'N',
    'sequences handed to workers at a time; each gets its batch and 512 more at most (of several tenants: an eighth of its batch more, at least 4)',
  ),
  requestsWaitingMax: option(
    whole(0, 65_536),
    limits.requestsWaitingMax,
    'N',
    'sequences that wait beyond them; more are refused with 503',
  ),
  homeChoice: option(
    oneOf('routing', 'load'),
    'routing',
    'RULE',
    'how homes are chosen: routing: where the experts of such requests are, within the slack; load: the least busy worker',
  ),
  homeFill: option(
    whole(1, 4096),
    16,
    'N',
    'sequences that a home takes before an idle worker of the same memory becomes a home too; 1: all are homes alike',
  ),
  homeSlackSequences: option(whole(0, 4096), 4, 'N', 'how many sequences more than the least busy worker a preferred home may have'),
  homeSlackTokens: option(whole(0, 2 ** 31), 4096, 'TOKENS', 'the same in tokens of prompts that are not computed yet'),
  homeMovePercent: option(
    whole(1, 100),
    25,
    'PERCENT',
    'a long prompt of unknown kind moves after its first chunk where so much more of its experts are; 100: never',
  ),
  // A string of JavaScript ends at 512 MiB, and a body becomes one.
  bodyBytesMax: option(whole(1024, 511 * 1024 ** 2), limits.bodyBytesMax, 'BYTES', 'size of a request body'),
  apiKeyFile: option(optionalText, null, 'FILE', 'lines of "KEY TENANT" (or "KEY"); requests then need one of them as bearer token'),
  adminTokenFile: option(optionalText, null, 'FILE', 'bearer token of /v1/switchyard/*'),
  adminSocket: option(optionalText, null, 'PATH', 'Unix socket that serves /v1/switchyard/* to its owner without a token'),
  traceDir: option(optionalText, null, 'DIR', 'where routing traces may be recorded; without it they cannot'),
  replayRouting: option(
    optionalText,
    null,
    'FILE',
    "routing trace whose choices replace the routers', as workers see it too; for measurements",
  ),
  metricsCompat: option(oneOf('none', 'vllm'), 'none', 'NAMES', 'vllm: also expose the vllm:* names'),
  graceMs: option(whole(0, 86_400_000), 30_000, 'MS', 'how long running requests may finish after SIGTERM'),
  pingMs: option(whole(100, 3_600_000), 15_000, 'MS', 'a silent stream is kept open with a comment this often'),
  headersTimeoutMs: option(whole(100, 3_600_000), 20_000, 'MS', 'how long a client may take to send its headers'),
  requestTimeoutMs: option(whole(100, 3_600_000), 60_000, 'MS', 'how long a client may take to send its request'),
  stallMs: option(whole(100, 86_400_000), 15_000, 'MS', 'work pending and no step for so long: /health/progress answers 503'),
  liveMs: option(whole(100, 86_400_000), 120_000, 'MS', 'the same, or a main loop stuck for so long: /health/live answers 503'),
  supervised: option(onOff, false, null, 'end when standard input closes'),
  logLevel: option(
    oneOf('fatal', 'error', 'warn', 'info', 'debug', 'silent'),
    'info',
    'LEVEL',
    'what is logged to stderr: fatal, error, warn, info, debug, silent',
  ),
};

export type Config = Values<typeof options>;
/** What a program must give; all else has defaults. */
export type GivenConfig = Partial<Config> & Pick<Config, 'model'>;

/** @throws SwitchyardError `invalid_request` that begins with the option's name */
export function readConfig(args: readonly string[], environment: Readonly<Record<string, string | undefined>>): Config {
  return readOptions(options, environmentPrefix, args, environment);
}

export function completeConfig(given: GivenConfig): Config {
  return withDefaults(options, given);
}

export function help(): string {
  return `Usage: switchyard coordinator --model DIR [options]

Serves the OpenAI-compatible API and directs the workers that attach to it.

Options (environment: ${environmentPrefix}MODEL and so on):
  --help                             print this
  --version                          print the version
${helpOf(options)}
`;
}
