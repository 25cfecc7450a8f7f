import { existsSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { availableCpus, type Backend, isLoopback, limits, nodeLimitProblem, parseLossy } from '@switchyard/proto';
import { Command, Option } from 'commander';
import { ApiClient } from '../api/client.ts';
import type { ClusterStatus } from '../api/cluster-status.ts';
import { selectModel } from '../api/models.ts';
import { tryBackends } from '../cluster/backend-trial.ts';
import { bundledModel } from '../cluster/bundled-model.ts';
import { type ClusterShape, clusterShape } from '../cluster/cluster-shape.ts';
import { shareCpus } from '../cluster/cpu-share.ts';
import { untilReady } from '../cluster/readiness.ts';
import { traceFolder } from '../cluster/trace-folder.ts';
import { formatUpReport, upReport } from '../cluster/up-report.ts';
import { explainDeath } from '../cluster/worker-death.ts';
import type { LocalTransport } from '../cluster/worker-flags.ts';
import { CommandFailure, exitStatus } from '../failure.ts';
import { coloursOf } from '../terminal/colours.ts';
import { checkModelFolder } from '../terminal/model-folder.ts';
import { backendList, byteCount, hostNames, integerIn, lossyList, nonEmpty } from '../terminal/option-values.ts';
import type { Progress } from '../terminal/progress.ts';
import { startProgress } from '../terminal/progress.ts';
import { formatBytes } from '../terminal/quantity.ts';
import { onReaderGone } from '../terminal/standard-streams.ts';
import { visible } from '../terminal/visible.ts';
import { interruptSignal, untilAborted } from './interrupt.ts';
import { firstKey } from './server-options.ts';

interface UpOptions {
  model: string;
  name?: string;
  nodes?: number;
  workersPerNode?: number;
  plan?: string;
  host: string;
  port: number;
  healthPort?: number;
  apiKeyFile?: string;
  allowedHosts: string;
  numeric: 'auto' | 'f32' | 'bf16';
  expertDtype: 'stored' | 'int8' | 'int4';
  lossy: string;
  denseDtype: 'stored' | 'int8';
  sum: 'exact' | 'fast';
  transport: LocalTransport;
  maxContext: number;
  kvBytes?: number;
  maxBatchRows?: number;
  maxSequences?: number;
  prefixCache: boolean;
  draftMax?: number;
  metricsCompat: 'none' | 'vllm';
  homeChoice: 'routing' | 'load';
  homeFill?: number;
  homeSlackSequences?: number;
  homeMovePercent?: number;
  threads?: number;
  backend: Backend[];
  pin: boolean;
  grace: number;
  traceDir?: string;
  replayRouting?: string;
  try?: string | true;
  verbose?: boolean;
  json?: boolean;
  supervised?: boolean;
}

const firstPrompt = 'It was a dark night, and the captain';
/** A seed gives everyone the same text: what is sampled does not depend on where it is computed. */
const firstSampling = { max_tokens: 40, temperature: 0.7, top_p: 0.9, seed: 3 };

export function upCommand(): Command {
  return new Command('up')
    .description('Start a coordinator and its workers on this machine and serve a model until Ctrl-C')
    .option('--model <dir>', 'checkpoint in Hugging Face layout', bundledModel())
    .option('--name <id>', 'name that clients ask for (default: that of the folder)', nonEmpty)
    .option(
      '--nodes <count>',
      'groups of workers (default: 2, or what the plan says; 1 where --backend names GPUs alone)',
      integerIn(1, limits.nodesMax),
    )
    .option(
      '--workers-per-node <count>',
      'workers in each (default: 2, or what the plan says; with GPUs alone one for each)',
      integerIn(1, limits.workersMax),
    )
    .option('--plan <file>', 'where each expert lives (default: even, contiguous ranges)')
    .option('--host <address>', 'address to listen on', nonEmpty, '127.0.0.1')
    .option('--port <port>', 'port to listen on; 0 takes any free one', integerIn(0, 65_535), 8000)
    .option('--health-port <port>', 'answer /health/* there too, also while the API is busy', integerIn(0, 65_535))
    .option('--api-key-file <file>', 'keys that clients must send, a line each: KEY, or KEY TENANT')
    .addOption(
      new Option('--allowed-hosts <list>', 'names, with commas between, by which clients may ask on loopback without keys; *: any')
        .argParser(hostNames)
        .default('', "this machine's"),
    )
    .addOption(
      new Option('--numeric <class>', 'what the inputs of matrices are rounded to').choices(['auto', 'f32', 'bf16']).default('auto'),
    )
    .addOption(new Option('--expert-dtype <dtype>', 'how expert weights are held').choices(['stored', 'int8', 'int4']).default('stored'))
    .addOption(new Option('--dense-dtype <dtype>', 'how other weights are held').choices(['stored', 'int8']).default('stored'))
    .addOption(new Option('--sum <mode>', 'how contributions of experts are added').choices(['exact', 'fast']).default('exact'))
    .addOption(
      new Option('--lossy <list>', 'give up exactness for less traffic: node-limit=N, wire=int8 or wire=fp8, with commas between')
        .argParser(lossyList)
        .default('', 'nothing is given up'),
    )
    .addOption(new Option('--transport <name>', 'how workers reach one another').choices(['shm', 'uds', 'tcp', 'grpc']).default('shm'))
    .option('--max-context <tokens>', 'longest sequence; 0: what the checkpoint was made for', integerIn(0, 2 ** 31), 0)
    .option('--kv-bytes <size>', 'KV cache of each worker, like 512M or 2GiB (default: 512MiB)', byteCount)
    .option('--max-batch-rows <rows>', 'rows of one step: prefill chunk and decodes (default: 512)', integerIn(1, limits.frameRowsMax))
    .option('--max-sequences <count>', 'sequences that one worker runs at a time (default: 64)', integerIn(1, limits.requestsRunningMax))
    .option(
      '--draft-max <tokens>',
      'tokens that a stream may guess from its own text or its prediction for one step to check; 0: none (default: 16)',
      integerIn(0, limits.draftMax),
    )
    .option('--no-prefix-cache', 'compute every prompt from its beginning')
    .addOption(new Option('--metrics-compat <names>', 'vllm: expose the vllm:* metrics too').choices(['none', 'vllm']).default('none'))
    .addOption(
      new Option('--home-choice <rule>', 'routing: requests live where their experts are, within the slack; load: on the least busy worker')
        .choices(['routing', 'load'])
        .default('routing'),
    )
    .option(
      '--home-fill <count>',
      'sequences that a home takes before an idle worker of the same memory becomes a home too; 1: all are homes alike (default: 16)',
      integerIn(1, 4096),
    )
    .option(
      '--home-slack-sequences <count>',
      'how many sequences more than the least busy worker a preferred home may have (default: 4)',
      integerIn(0, 4096),
    )
    .option(
      '--home-move-percent <percent>',
      'a long prompt moves after its first chunk where so much more of its experts are; 100: never (default: 25)',
      integerIn(1, 100),
    )
    .option('--threads <count>', 'threads of each worker (default: the CPUs divided)', integerIn(1, 1024))
    .addOption(
      new Option('--backend <list>', 'kernels: cpu, cuda:N (experts on GPU N), cpu-ref; of several, workers take turns')
        .argParser(backendList)
        .default(['cpu'], 'cpu'),
    )
    .option('--no-pin', 'do not pin threads to CPUs')
    .option('--grace <seconds>', 'how long running requests may take to end after Ctrl-C', integerIn(0, 86_400), 5)
    .option(
      '--trace-dir <dir>',
      'where routing traces are recorded when asked for (default: switchyard/traces in $XDG_STATE_HOME, or ~/.local/state)',
    )
    .option('--replay-routing <file>', "take the choices of this routing trace instead of the routers': to measure, not to answer")
    .option('--try [prompt]', 'when ready, print a first completion')
    .option('--verbose', "show the log of the coordinator and the workers' output")
    .option('--json', 'print one line of JSON when ready, and nothing else on stdout')
    .option('--supervised', 'end when standard input closes: for programs that start this one')
    .addHelpText(
      'after',
      `
Examples:
  $ switchyard up
  $ switchyard up --model /models/OLMoE-1B-7B --nodes 2 --workers-per-node 2 --numeric bf16
  $ switchyard up --nodes 1 --workers-per-node 1 --port 0
  $ switchyard up --nodes 1 --workers-per-node 2 --backend cuda:0,cuda:1
  $ switchyard up --plan plan.json --transport grpc --try "Once upon a time"`,
    )
    .action(runUp);
}

/** A process on a GPU takes some hundred megabytes of it: where only GPUs are named and nothing else is said, each has one. */
function withShape(options: UpOptions): UpOptions {
  const { backend, nodes, workersPerNode, plan } = options;
  const said = nodes !== undefined || workersPerNode !== undefined || plan !== undefined;
  if (said || !backend.every((name) => /^cuda(:|$)/.test(name))) return options;
  return { ...options, nodes: 1, workersPerNode: backend.length };
}

async function runUp(given: UpOptions): Promise<void> {
  const options = withShape(given);
  checkModelFolder(options.model, `--model ${options.model}`);
  if (options.replayRouting !== undefined && !existsSync(options.replayRouting))
    throw new CommandFailure(`--replay-routing ${options.replayRouting}: there is no such file`, { status: exitStatus.usage });
  if (options.apiKeyFile !== undefined) firstKey(options.apiKeyFile);
  const shape = clusterShape(options);
  await checkGpus(options.backend);
  checkCache(options.kvBytes, shape.workers.length);
  checkNodeLimit(options.lossy, shape);
  const cpus = availableCpus();
  const shares = shareCpus(cpus, shape.workers.length, options.threads ?? null).map((share) =>
    options.pin ? share : { ...share, cpus: null },
  );
  const traces = traceFolder(options.traceDir);
  const interrupt = interruptSignal();
  onReaderGone(() => process.kill(process.pid, 'SIGTERM'));
  if (options.supervised) endWithStdin();

  // Only here: the coordinator is by far the largest part of the program, and no other command needs it.
  const { startLocalCluster } = await import('../cluster/local-cluster.ts');
  const fatal = new AbortController();
  let ready = false;
  const cluster = await startLocalCluster({
    shape,
    shares,
    backends: options.backend,
    transport: options.transport,
    traces,
    graceMs: options.grace * 1000,
    coordinator: {
      model: path.resolve(options.model),
      modelName: options.name ?? null,
      listen: `${options.host.includes(':') ? `[${options.host}]` : options.host}:${options.port}`,
      nodes: options.nodes ?? 2,
      workersPerNode: options.workersPerNode ?? 2,
      plan: options.plan ?? null,
      numeric: options.numeric,
      expertDtype: options.expertDtype,
      denseDtype: options.denseDtype,
      sum: options.sum,
      lossy: options.lossy,
      maxContext: options.maxContext,
      prefixCache: options.prefixCache,
      ...(options.draftMax === undefined ? {} : { draftMax: options.draftMax }),
      logLevel: options.verbose ? 'info' : 'error',
      ...(options.healthPort === undefined ? {} : { healthPort: options.healthPort }),
      ...(options.apiKeyFile === undefined ? {} : { apiKeyFile: options.apiKeyFile }),
      allowedHosts: options.allowedHosts,
      ...(options.kvBytes === undefined ? {} : { kvBytes: options.kvBytes }),
      ...(options.maxBatchRows === undefined ? {} : { maxBatchRows: options.maxBatchRows }),
      ...(options.maxSequences === undefined ? {} : { maxSequences: options.maxSequences }),
      metricsCompat: options.metricsCompat,
      homeChoice: options.homeChoice,
      ...(options.homeFill === undefined ? {} : { homeFill: options.homeFill }),
      ...(options.homeSlackSequences === undefined ? {} : { homeSlackSequences: options.homeSlackSequences }),
      ...(options.homeMovePercent === undefined ? {} : { homeMovePercent: options.homeMovePercent }),
      ...(options.replayRouting === undefined ? {} : { replayRouting: options.replayRouting }),
    },
    onLine: (worker, line) => {
      if (options.verbose) process.stderr.write(`${worker.name}: ${line}\n`);
    },
    onLog: (line) => {
      // What happens before the first answer is told by whoever waits for it.
      if (options.verbose) process.stderr.write(line);
      else if (ready) process.stderr.write(explainLog(line));
    },
    onDeath: (death) => {
      process.stderr.write(explainDeath(death, coloursOf(process.stderr)));
      // Before the first answer there is nothing to keep alive: a worker that cannot start will not start the sixth time either.
      if (!ready && death.crashLoop) fatal.abort(new CommandFailure(`worker ${death.worker.name} cannot start`));
    },
  }).catch(explainListening(options));
  const admin = new ApiClient({ url: cluster.url, apiKey: cluster.adminToken, timeoutMs: 60_000 });
  try {
    const progress = startProgress('loading');
    const status = await untilReady(
      admin,
      (seen) => showLoading(progress, seen),
      AbortSignal.any([interrupt.signal, fatal.signal]),
    ).finally(progress.finish);
    ready = true;
    const report = upReport(path.resolve(options.model), cluster, status);
    process.stdout.write(options.json ? `${JSON.stringify(report)}\n` : formatUpReport(report, coloursOf(process.stdout)));
    if (options.apiKeyFile === undefined && !isLoopback(options.host))
      process.stderr.write(coloursOf(process.stderr).yellow(`--host ${options.host} answers anybody: give it an --api-key-file\n`));
    if (options.try !== undefined) await tryFirstCompletion(cluster.url, report.model, options, interrupt.signal);
    if (!options.json) process.stdout.write(coloursOf(process.stdout).dim('Ctrl-C stops everything.\n'));
    await untilAborted(interrupt.signal);
  } catch (error) {
    if (fatal.signal.aborted) throw fatal.signal.reason;
    if (!interrupt.signal.aborted) throw error;
  } finally {
    admin.close();
    if (interrupt.signal.aborted && !options.json) process.stderr.write('stopping\n');
    await cluster.stop();
    interrupt.release();
  }
}

/** Here, and not by workers that start again and again: a GPU that is not there will not come. */
async function checkGpus(backends: readonly Backend[]): Promise<void> {
  const gpus = backends.filter((backend) => backend.startsWith('cuda'));
  if (gpus.length === 0) return;
  const trials = await tryBackends([...new Set(gpus)]).catch((error: Error) => {
    throw new CommandFailure(`the native kernels do not work here: ${error.message}; rebuild them: npm run build`);
  });
  const refused = trials.find((trial) => trial.refusal !== null);
  if (refused) throw new CommandFailure(`--backend ${refused.backend}: ${refused.refusal?.replace(/^backend = "[^"]*": /, '')}`);
}

/** Memory is taken page by page as the cache fills: what cannot ever fit would otherwise end a worker long after it was ready. */
function checkCache(kvBytes: number | undefined, workers: number): void {
  if (kvBytes === undefined || kvBytes * workers <= os.totalmem()) return;
  const wanted = `--kv-bytes ${formatBytes(kvBytes)} for each of ${workers} worker${workers === 1 ? '' : 's'}`;
  throw new CommandFailure(`${wanted} exceeds this machine's memory of ${formatBytes(os.totalmem())}`, { status: exitStatus.usage });
}

function checkNodeLimit(lossy: string, { workers }: ClusterShape): void {
  const problem = nodeLimitProblem(parseLossy(lossy), workers);
  if (problem !== null) throw new CommandFailure(problem, { status: exitStatus.usage });
}

/** Says which of our flags to change when the address cannot be had. */
function explainListening({ host, port }: UpOptions): (error: unknown) => never {
  return (error) => {
    // Of a folder, say: it has its own words, whatever the system's were.
    if (error instanceof CommandFailure) throw error;
    const cause = error instanceof Error ? (error.cause as NodeJS.ErrnoException | undefined) : undefined;
    if (cause?.code === 'EADDRINUSE')
      throw new CommandFailure(`port ${port} on ${host} is in use: choose another with --port, or any free one with --port 0`, {
        cause: error,
      });
    if (cause?.code === 'EADDRNOTAVAIL') throw new CommandFailure(`--host ${host} is no address of this machine`, { cause: error });
    if (cause?.code === 'ENOTFOUND' || cause?.code === 'EAI_AGAIN')
      throw new CommandFailure(`--host ${host} cannot be resolved: give an address of this machine`, { cause: error });
    if (cause?.code === 'EACCES')
      throw new CommandFailure(`port ${port} needs more rights than you have: choose one above 1023 with --port`, { cause: error });
    throw error;
  };
}

/** The pipe closes when whoever started us has gone, in whatever way. */
function endWithStdin(): void {
  process.stdin.resume();
  process.stdin.on('end', () => process.kill(process.pid, 'SIGTERM'));
  process.stdin.on('error', () => process.kill(process.pid, 'SIGTERM'));
  // A file has no such method, /dev/null either: it ends at once, and so does whatever was started with it.
  process.stdin.unref?.();
}

function showLoading(progress: Progress, status: ClusterStatus): void {
  const done = status.workers.reduce((sum, worker) => sum + (worker.state === 'ready' ? 1 : worker.progress), 0);
  const waiting = status.workers.filter((worker) => worker.state !== 'ready').map((worker) => worker.name);
  progress.update(Math.round((1000 * done) / Math.max(1, status.workers.length)), 1000, waiting.join(' '));
}

function explainLog(line: string): string {
  const { msg, level, time, part, ...about } = JSON.parse(line) as { msg: string; part: string } & Record<string, unknown>;
  return coloursOf(process.stderr).red(`${part}: ${msg} ${JSON.stringify(about)}\n`);
}

/** The server is ready whatever comes of this: a prompt that it refuses, or one that takes long on this machine, is no reason to stop it. */
async function tryFirstCompletion(url: string, model: string, options: UpOptions, signal: AbortSignal): Promise<void> {
  try {
    await printFirstCompletion(url, model, options, signal);
  } catch (error) {
    if (signal.aborted) throw error;
    process.stderr.write(coloursOf(process.stderr).yellow(`the first completion failed: ${(error as Error).message}\n`));
  }
}

/** Beside the JSON that a program reads there is nothing else on stdout. */
async function printFirstCompletion(url: string, model: string, options: UpOptions, signal: AbortSignal): Promise<void> {
  const prompt = typeof options.try === 'string' ? options.try : firstPrompt;
  const output = options.json ? process.stderr : process.stdout;
  const client = new ApiClient({ url, apiKey: options.apiKeyFile === undefined ? null : firstKey(options.apiKeyFile), timeoutMs: 60_000 });
  try {
    output.write(`${coloursOf(output).dim('A first completion:')} ${prompt}`);
    const { max_model_len: context } = await selectModel(client, model, signal);
    // Half of a small context is left to the prompt.
    const maxTokens = Math.max(1, Math.min(firstSampling.max_tokens, Math.floor((context ?? Number.POSITIVE_INFINITY) / 2)));
    const body = { model, prompt, ...firstSampling, max_tokens: maxTokens, stream: true };
    await client.stream('/v1/completions', body, {
      onData: ({ choices }: { choices: { text: string }[] }) => output.write(visible(choices[0]?.text ?? '', output)),
      signal,
    });
  } finally {
    output.write('\n\n');
    client.close();
  }
}
