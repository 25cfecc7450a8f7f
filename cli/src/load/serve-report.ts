import { formatBytes, formatDecimal } from '../terminal/quantity.ts';
import { textTable } from '../terminal/table.ts';
import type { LevelReport } from './level-report.ts';
import type { MachineDescription } from './machine.ts';
import type { TimeReport } from './time-report.ts';
import type { WireReport } from './wire-report.ts';

export interface ServeWorkload {
  prompts: 'random ids' | 'text as ids' | 'text';
  endpoint: 'completions' | 'chat';
  promptTokens: number;
  sharedPrefixTokens: number;
  outputTokens: number;
  temperature: number;
  ignoreEos: boolean;
  seed: number;
}

/** The result of `bench serve --json`: the same fields on every run, null where a server does not tell. */
export interface ServeReport {
  format: 'switchyard-bench-serve';
  version: 1;
  createdAt: string;
  command: string;
  label: string | null;
  machine: MachineDescription;
  target: { url: string; model: string; switchyard: boolean; numericClass: string | null };
  workload: ServeWorkload;
  levels: (LevelReport & { wire: WireReport | null; time: TimeReport | null })[];
  /** Ended early: the levels are those that were complete by then. */
  interrupted: boolean;
  /** What ended it early; null: nothing, or the user's wish. */
  failure: string | null;
  errors: number;
}

export function formatServeReport(report: ServeReport): string {
  const { workload, target } = report;
  const lines = [
    `${target.model} at ${target.url}: ${workload.promptTokens} prompt tokens (${workload.prompts}), ${workload.outputTokens} output tokens, ${workload.endpoint}`,
    '',
    textTable(
      [
        'clients',
        'requests',
        'errors',
        'out tok/s',
        'all tok/s',
        'TTFT p50',
        'p95',
        'p99',
        'ITL p50',
        'p95',
        'p99',
        'TPOT p50',
        'ms/request p50',
      ],
      report.levels.map((level) => [
        level.concurrency,
        level.requests,
        level.errors,
        formatDecimal(level.outputTokensPerSecond),
        formatDecimal(level.totalTokensPerSecond ?? Number.NaN),
        ...[level.timeToFirstTokenMs, level.interTokenMs].flatMap((d) =>
          [d?.p50, d?.p95, d?.p99].map((v) => formatDecimal(v ?? Number.NaN)),
        ),
        formatDecimal(level.timePerOutputTokenMs?.p50 ?? Number.NaN),
        formatDecimal(level.requestMs?.p50 ?? Number.NaN),
      ]),
    ),
    ...(report.failure === null ? [] : [`Ended early, levels that were not complete are left out: ${report.failure}`]),
    ...(report.interrupted ? ['Interrupted: levels that were not complete are left out.'] : []),
    ...(report.levels.some((level) => level.promptTokens === null)
      ? ['Usage is not reported by the server: prompt tokens are not known, and chunks were counted for output tokens.']
      : []),
    'Times in milliseconds. TTFT: first token; ITL: gap between chunks; TPOT: time per output token after the first.',
  ];
  const wired = report.levels.filter((level) => level.wire !== null && level.wire.links.length > 0);
  for (const { concurrency, wire } of wired)
    lines.push(
      '',
      `Between workers at ${concurrency} client${concurrency === 1 ? '' : 's'}: ${formatBytes(Math.round(wire!.bytesPerToken))} a token, ${formatBytes(Math.round(wire!.crossNodeBytesPerToken))} of it across nodes, ${formatDecimal(wire!.remoteNodesPerTokenLayer)} remote nodes a token and layer, round trip ${formatDecimal(wire!.roundTripMicroseconds)} µs`,
      textTable(
        ['link', 'transport', 'bytes a token', 'frames'],
        wire!.links.map((link) => [`${link.from} > ${link.to}`, link.transport, formatDecimal(link.bytesPerToken), link.frames]),
      ),
    );
  const timed = report.levels.filter((level) => level.time !== null && level.time.steps > 0);
  if (timed.length > 0) {
    const activities = Object.keys(timed[0].time!.seconds);
    lines.push(
      '',
      'What the workers spent their time on, in ms a step:',
      textTable(
        ['clients', 'steps', ...activities],
        timed.map(({ concurrency, time }) => [
          concurrency,
          time!.steps,
          ...activities.map((a) => formatDecimal((1000 * (time!.seconds[a] ?? 0)) / time!.steps)),
        ]),
      ),
    );
  }
  for (const level of report.levels)
    for (const { message, count } of level.errorMessages)
      lines.push(`${count} request${count === 1 ? '' : 's'} failed at ${level.concurrency} clients: ${message}`);
  return `${lines.join('\n')}\n`;
}
