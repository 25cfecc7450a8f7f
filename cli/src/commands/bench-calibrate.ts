import type { Calibration } from '@switchyard/placement';
import { dialBest, type LinkOptions, listenAny, SwitchyardError } from '@switchyard/proto';
import { inspectModel } from '@switchyard/worker';
import { Command } from 'commander';
import { selectModel } from '../api/models.ts';
import { fitHost, type MeasuredLoad } from '../calibration/host-fit.ts';
import { answerProbes, probeLink } from '../calibration/link-probe.ts';
import { CommandFailure, exitStatus } from '../failure.ts';
import { describeMachine } from '../load/machine.ts';
import { randomIdPrompts, vocabOf } from '../load/prompts.ts';
import { serveBench } from '../load/serve-bench.ts';
import { checkOutput, writeOutputs } from '../terminal/output-file.ts';
import { startProgress } from '../terminal/progress.ts';
import { print } from '../terminal/visible.ts';
import { type BenchTarget, withTargetServer } from './bench-target.ts';
import { checkUpFlags, withShape } from './bench-up-flags.ts';
import { interruptSignal, untilAborted } from './interrupt.ts';

interface Flags {
  listen?: string;
  dial?: string;
  out: string;
  json?: boolean;
}

/** No cluster secret guards a probe: it moves no data but its own zeros. */
const probeOptions: LinkOptions = { token: '', tls: null };
const requestMsMax = 600_000;
const decodeTokens = 96;
const promptTokens = { decoding: 16, short: 32, long: 384 };
/** A long prompt of three times a short one tells what its attention adds. */
const contextMin = promptTokens.decoding + decodeTokens;
const requests = 6;

export function benchCalibrateCommand(): Command {
  return new Command('calibrate')
    .description("Measure what the planner's cost model must know: host and links. For `switchyard place --calibration`")
    .argument('[up-flags...]', 'after --: flags for the `switchyard up` that is measured (1 node of 2 workers unless they say otherwise)')
    .option(
      '--listen <address>',
      'answer the probes of another machine until interrupted, e.g. tcp://0.0.0.0:4790; measures nothing itself',
    )
    .option('--dial <address>', 'probe the machine that listens there: the link between nodes')
    .option('--out <file>', 'where the constants go', 'calibration.json')
    .option('--json', 'print them as JSON too')
    .addHelpText(
      'after',
      `
Examples:
  $ switchyard bench calibrate
  $ switchyard bench calibrate --listen tcp://0.0.0.0:4790              # on one machine
  $ switchyard bench calibrate --dial tcp://10.0.0.2:4790 -- --model DIR   # on another`,
    )
    .action(async (upFlags: string[], flags: Flags, given: Command) => {
      checkUpFlags(upFlags);
      if (flags.listen !== undefined && flags.dial !== undefined)
        throw new CommandFailure(
          `--listen ${flags.listen} and --dial ${flags.dial} are for two machines: one answers, the other measures`,
          {
            status: exitStatus.usage,
          },
        );
      if (flags.listen !== undefined) checkNothingElse(flags.listen, upFlags, flags, given);
      if (flags.listen === undefined) checkOutput(flags.out, '--out');
      const { signal, release } = interruptSignal();
      try {
        if (flags.listen !== undefined) return await answerUntil(flags.listen, signal);
        const calibration = await calibrate(upFlags, flags.dial, signal);
        print(flags.json ? `${JSON.stringify(calibration)}\n` : calibrationText(calibration));
        writeOutputs([{ option: '--out', file: flags.out, text: `${JSON.stringify(calibration, null, 1)}\n` }]);
        if (!flags.json) print(`wrote ${flags.out}\n`);
      } finally {
        release();
      }
    });
}

/** What answers probes measures nothing: no server is started for it, and it has no result. */
function checkNothingElse(listen: string, upFlags: readonly string[], { out, json }: Flags, given: Command): void {
  const unused = [
    ...(given.getOptionValueSource('out') === 'cli' ? [`--out ${out}`] : []),
    ...(json ? ['--json'] : []),
    ...(upFlags.length > 0 ? ['flags after --'] : []),
  ];
  if (unused.length === 0) return;
  throw new CommandFailure(
    `--listen ${listen} answers probes and measures nothing itself; ${unused.join(', ')}: for the machine that dials`,
    {
      status: exitStatus.usage,
    },
  );
}

/** Says which flag gave an address that is none. */
function blaming(option: string, address: string): (error: unknown) => never {
  return (error) => {
    if (!(error instanceof SwitchyardError) || error.code !== 'invalid_request') throw error;
    throw new CommandFailure(`${option} ${address}: ${error.message}`, { status: exitStatus.usage, cause: error });
  };
}

async function answerUntil(address: string, signal: AbortSignal): Promise<void> {
  const listeners = await listenAny([address], probeOptions, answerProbes).catch(blaming('--listen', address));
  process.stderr.write(`answering probes on ${listeners.addresses.join(', ')}\n`);
  await untilAborted(signal);
  await listeners.close();
}

async function calibrate(upFlags: string[], dial: string | undefined, signal: AbortSignal): Promise<Calibration> {
  const intraNode = await overLoopback(signal);
  const interNode = dial === undefined ? null : await overLink(dial, signal).catch(blaming('--dial', dial));
  // What a step takes by its rows is asked for, so that nothing may be guessed.
  const flags = ['--draft-max', '0', ...withShape(1, 2, upFlags)];
  return withTargetServer({ upFlags: flags, timeoutMs: requestMsMax, signal }, async (target) => {
    const { started } = target;
    if (started === null || started.workers.length < 2)
      throw new CommandFailure('calibrate needs two workers at least: one alone does not tell experts from the rest of a layer', {
        status: exitStatus.usage,
      });
    const model = inspectModel(started.modelDir);
    const layers = model.moeLayers.length;
    if (layers === 0) throw new CommandFailure(`${started.modelDir} has no experts: there is nothing to place`);
    const { max_model_len } = await selectModel(target.client, null, target.signal);
    const context = max_model_len ?? model.maxContext;
    if (context < contextMin)
      throw new CommandFailure(`calibrate needs a context of ${contextMin} tokens at least, the server has one of ${context}`, {
        status: exitStatus.usage,
      });
    const loads = [
      await measureLoad(target, promptTokens.decoding, decodeTokens),
      await measureLoad(target, promptTokens.short, 1),
      await measureLoad(target, Math.min(promptTokens.long, context - 8), 1),
    ];
    return {
      format: 'switchyard-calibration',
      version: 1,
      provenance: {
        machine: describeMachine(),
        model: model.modelType,
        numericClass: started.numericClass,
        workers: started.workers.length,
      },
      host: fitHost({ moeLayers: layers, experts: model.experts, topK: model.topK }, loads),
      interNode,
      intraNode,
    };
  });
}

/** One client, so that a decode step is one row. */
async function measureLoad(target: BenchTarget, prompt: number, output: number): Promise<MeasuredLoad> {
  const { signal } = target;
  const card = await selectModel(target.client, null, signal);
  const progress = startProgress(`calibrate, prompts of ${prompt}`);
  let load: MeasuredLoad | null = null;
  try {
    await serveBench({
      client: target.client,
      model: card.id,
      concurrencies: [1],
      requestsAt: () => requests,
      warmupAt: () => 2,
      maxTokens: output,
      temperature: 0,
      ignoreEos: true,
      extra: {},
      promptsFor: () => randomIdPrompts(prompt, 0, vocabOf(card), prompt),
      onProgress: progress.update,
      aroundLevel: {
        before: () => target.cluster.begin(),
        after: async (level) => {
          if (level.errors > 0) throw new CommandFailure(`a request failed: ${level.errorMessages[0]?.message}`);
          if (level.promptTokens === null) throw new CommandFailure('the server reports no usage');
          const tokens = level.promptTokens + level.outputTokens - level.requests;
          const { time } = await target.cluster.end(tokens);
          if (time === null) throw new CommandFailure('the workers do not report their time');
          const { attention = 0, experts_own = 0, experts_others = 0, sampling = 0, other = 0 } = time.seconds;
          const length = tokens / level.requests;
          load = {
            tokens,
            steps: time.steps,
            contextTokens: (tokens * (length + 1)) / 2,
            outputs: level.outputTokens,
            attention,
            experts: experts_own + experts_others,
            rest: sampling + other,
          };
        },
      },
      signal,
    });
  } finally {
    progress.finish();
  }
  if (load === null) throw new CommandFailure('', { status: exitStatus.interrupted });
  return load;
}

async function overLoopback(signal: AbortSignal): Promise<{ latency: number; bandwidth: number }> {
  const listeners = await listenAny(['tcp://127.0.0.1:0'], probeOptions, answerProbes);
  try {
    return await overLink(listeners.addresses[0], signal);
  } finally {
    await listeners.close();
  }
}

/** Another machine may be there and never answer: Ctrl-C ends the wait for it, too. */
async function overLink(address: string, signal: AbortSignal): Promise<{ latency: number; bandwidth: number }> {
  try {
    const link = await dialBest([address], { ...probeOptions, signal });
    const close = () => void link.close();
    signal.addEventListener('abort', close, { once: true });
    return await probeLink(link).finally(close);
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  }
}

function calibrationText({ host, interNode, intraNode }: Calibration): string {
  const link = (of: Calibration['interNode']) =>
    of === null ? 'not measured (--dial)' : `${(1e6 * of.latency).toFixed(0)} us, ${(of.bandwidth / 1e9).toFixed(2)} GB/s`;
  const micros = (seconds: number) => `${(1e6 * seconds).toPrecision(3)} us`;
  const lines = [
    `experts: ${micros(host.experts.perExpert)} to read one, ${micros(host.experts.perRow)} a row`,
    `rest of a layer: ${micros(host.segment.fixed)}, ${micros(host.segment.perRow)} a row and ${micros(host.segment.perContext)} a position that it attends to`,
    `rest of a step: ${micros(host.step.fixed)}, ${micros(host.step.perRow)} a row and ${micros(host.step.perToken)} a token`,
    `between nodes: ${link(interNode)}; inside a node: ${link(intraNode)}`,
  ];
  return `${lines.join('\n')}\n`;
}
