import path from 'node:path';
import { Command } from 'commander';
import { selectModel } from '../api/models.ts';
import { bundledModel } from '../cluster/bundled-model.ts';
import { CommandFailure, exitStatus, failureOf } from '../failure.ts';
import type { MachineDescription } from '../load/machine.ts';
import { describeMachine } from '../load/machine.ts';
import type { WireReport } from '../load/wire-report.ts';
import { classFlags } from '../quality/class-flags.ts';
import { type HeldOut, readHeldOut } from '../quality/held-out.ts';
import type { QualityResult } from '../quality/quality-run.ts';
import { measureQuality } from '../quality/quality-run.ts';
import { integerIn } from '../terminal/option-values.ts';
import { checkOutput, writeOutputs } from '../terminal/output-file.ts';
import { startProgress } from '../terminal/progress.ts';
import { formatBytes } from '../terminal/quantity.ts';
import { textTable } from '../terminal/table.ts';
import { print } from '../terminal/visible.ts';
import type { BenchTarget, TargetOptions } from './bench-target.ts';
import { withTargetServer } from './bench-target.ts';
import { checkUpFlags, withShape } from './bench-up-flags.ts';
import { interruptSignal } from './interrupt.ts';
import { withServerOptions } from './server-options.ts';

interface QualityCommandOptions {
  url?: string;
  apiKeyFile?: string;
  model?: string;
  classes: string;
  heldOut: string;
  window: number;
  timeout: number;
  out?: string;
  json?: boolean;
}

/** What the measurement put on the wire; every class is asked the same. */
interface Traffic {
  remoteNodesPerTokenLayer: number;
  crossNodeBytes: number;
}

/** The result of `bench quality --json`. */
interface QualityReport {
  format: 'switchyard-bench-quality';
  version: 1;
  createdAt: string;
  command: string;
  machine: MachineDescription;
  heldOut: string;
  windowTokens: number;
  results: ({ class: string; model: string; traffic: Traffic | null } & QualityResult)[];
  /** Ended early: the results are those of classes that were complete by then. */
  interrupted: boolean;
  /** What ended it early; null: nothing, or the user's wish. */
  failure: string | null;
}

export function benchQualityCommand(): Command {
  const command = new Command('quality').description(
    'Measure what a numeric class costs: perplexity by domain, questions answered exactly',
  );
  withServerOptions(command)
    .argument('[up-flags...]', 'after --: flags for each `switchyard up` that is started when no --url is given')
    .option('--model <id>', 'model to ask for (default: the one served)')
    .option('--classes <list>', 'numeric classes to start servers with', 'f32,bf16,bf16+int8-experts,bf16+int4-experts')
    .option('--held-out <dir>', 'folder with <domain>.txt and which-book.json', path.join(bundledModel(), 'held-out'))
    .option('--window <tokens>', 'tokens of a window; each but the first is predicted', integerIn(2, 1_000_000), 512)
    .option('--timeout <seconds>', 'longest wait for one request', integerIn(1, 86_400), 600)
    .option('--out <file>', 'also write the JSON report there')
    .option('--json', 'print the report as JSON')
    .addHelpText(
      'after',
      `
A class is put together with + from f32, bf16, int8-experts, int4-experts, int8-dense, and the lossy node-limit-N, int8-wire, fp8-wire,
which mean something on several nodes only: -- --nodes 4. With --url the running server is measured as it is.

Examples:
  $ switchyard bench quality
  $ switchyard bench quality --classes f32,bf16+int8-experts+int8-dense -- --threads 2
  $ switchyard bench quality --url http://127.0.0.1:8000`,
    )
    .action(async (upFlags: string[], options: QualityCommandOptions, given: Command) => {
      checkUpFlags(upFlags, options.url);
      if (options.url !== undefined && given.getOptionValueSource('classes') === 'cli')
        throw new CommandFailure(
          `--classes ${options.classes} is for servers that are started here, but --url ${options.url} names one that runs`,
          {
            status: exitStatus.usage,
          },
        );
      checkOutput(options.out, '--out');
      const interrupt = interruptSignal();
      const heldOut = readHeldOut(options.heldOut);
      const target: TargetOptions = { ...options, upFlags, timeoutMs: options.timeout * 1000, signal: interrupt.signal };
      const classes =
        options.url === undefined
          ? options.classes.split(',').map((name) => ({ name, flags: classFlags(name) }))
          : [{ name: 'served', flags: [] }];
      const results: QualityReport['results'] = [];
      const failure = await failureOf(async () => {
        for (const { name, flags } of classes) {
          const startedFlags = options.url === undefined ? [...flags, ...withShape(1, 1, upFlags)] : [];
          results.push(
            await withTargetServer({ ...target, upFlags: startedFlags }, (server) => measureClass(name, server, heldOut, options)),
          );
        }
      });
      interrupt.release();
      if (failure !== null && results.length === 0) throw failure;
      const interrupted = failure !== null && interrupt.signal.aborted;
      const report: QualityReport = {
        format: 'switchyard-bench-quality',
        version: 1,
        createdAt: new Date().toISOString(),
        command: ['switchyard', ...process.argv.slice(2)].join(' '),
        machine: describeMachine(),
        heldOut: path.relative(process.cwd(), options.heldOut),
        windowTokens: options.window,
        results,
        interrupted,
        failure: interrupted ? null : (failure?.message ?? null),
      };
      const json = `${JSON.stringify(report, null, 2)}\n`;
      print(options.json ? json : formatQuality(report));
      if (options.out) writeOutputs([{ option: '--out', file: options.out, text: json }]);
      if (interrupted) process.exitCode = exitStatus.interrupted;
      else if (failure !== null) throw failure;
    });
  return command;
}

async function measureClass(
  name: string,
  { client, numericClass, cluster, signal }: BenchTarget,
  heldOut: HeldOut,
  options: QualityCommandOptions,
): Promise<QualityReport['results'][number]> {
  const { id } = await selectModel(client, options.model ?? null, signal);
  const progress = startProgress(`bench quality ${name}`);
  try {
    await cluster.begin();
    const onProgress = progress.update;
    const measured = await measureQuality({ client, model: id, heldOut, windowTokens: options.window, onProgress, signal });
    return { class: numericClass ?? name, model: id, traffic: trafficOf((await cluster.end(1)).wire), ...measured };
  } finally {
    progress.finish();
  }
}

/** Null where everything was local, or the server does not say. */
function trafficOf(wire: WireReport | null): Traffic | null {
  if (wire === null || wire.links.length === 0) return null;
  // Read as for one token: the whole of it.
  return { remoteNodesPerTokenLayer: wire.remoteNodesPerTokenLayer, crossNodeBytes: Math.round(wire.crossNodeBytesPerToken) };
}

function formatQuality(report: QualityReport): string {
  const domains = report.results[0]?.domains.map((d) => d.domain) ?? [];
  const spread = report.results.some((r) => r.traffic !== null);
  const rows = report.results.map((r) => [
    r.class,
    ...r.domains.map((d) => d.perplexity.toFixed(3)),
    r.questions > 0 ? `${r.answeredExactly} of ${r.questions}` : '-',
    ...(spread ? [r.traffic?.remoteNodesPerTokenLayer.toFixed(3) ?? '-', r.traffic ? formatBytes(r.traffic.crossNodeBytes) : '-'] : []),
  ]);
  const heads = ['class', ...domains, 'questions', ...(spread ? ['remote nodes a token and layer', 'across nodes'] : [])];
  const lines = [
    `Perplexity by domain (windows of ${report.windowTokens} tokens), questions answered exactly:`,
    '',
    textTable(heads, rows),
    ...(report.failure === null ? [] : [`Ended early, classes that were not complete are left out: ${report.failure}`]),
    ...(report.interrupted ? ['Interrupted: classes that were not complete are left out.'] : []),
  ];
  return `${lines.join('\n')}\n`;
}
