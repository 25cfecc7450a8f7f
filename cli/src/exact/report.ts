import type { MachineDescription } from '../load/machine.ts';
import { textTable } from '../terminal/table.ts';
import type { ScenarioResult } from './scenarios.ts';

/** The result of `bench exact --json`. */
export interface ExactReport {
  format: 'switchyard-bench-exact';
  version: 1;
  createdAt: string;
  command: string;
  label: string | null;
  machine: MachineDescription;
  target: { url: string; model: string; switchyard: boolean; numericClass: string | null };
  /** False: the server runs a lossy class and promises nothing; what is equal is so by chance. */
  promised: boolean;
  questions: number;
  tokensPerQuestion: number;
  others: number;
  temperature: number;
  results: ScenarioResult[];
  /** Why comparisons that were asked for are missing, or null. */
  incomplete: string | null;
  /** Every comparison that was asked for and that the server supports came out equal, bit for bit. */
  exact: boolean;
}

export function isExact(results: readonly ScenarioResult[]): boolean {
  return results.every((r) => r.unsupported !== null || r.sameLogprobs === r.questions);
}

export function formatExactReport(report: ExactReport): string {
  const rows = report.results.map((r) =>
    r.unsupported !== null
      ? [r.scenario, '-', '-', '-', r.unsupported]
      : [
          r.scenario,
          `${r.sameTokens}/${r.questions}`,
          `${r.sameLogprobs}/${r.questions}`,
          differenceText(r.largestLogprobDifference),
          r.firstDifference === null
            ? 'identical'
            : `differs from question ${r.firstDifference.question}, token ${r.firstDifference.token}`,
        ],
  );
  return [
    `${report.target.model} at ${report.target.url}: ${report.questions} prompts, ${report.tokensPerQuestion} tokens each, temperature ${report.temperature}; ${report.others} other clients where it says so.`,
    'Each row asks the same again and compares with what came back when each was asked alone.',
    '',
    textTable(['asked', 'same tokens', 'same logprobs', 'largest difference', ''], rows),
    '',
    ...(report.promised ? [] : [`The promise is off: class ${report.target.numericClass} is lossy, by an option that somebody gave.`]),
    closingLine(report),
    '',
  ].join('\n');
}

function differenceText(largest: number | null): string {
  if (largest === null) return '-';
  return largest === 0 ? '0' : largest.toExponential(1);
}

function closingLine({ results, incomplete }: ExactReport): string {
  if (!isExact(results)) return 'Not everything is identical.';
  return incomplete === null
    ? 'Everything that could be compared is identical, bit for bit.'
    : `What was compared is identical, bit for bit, but not everything was: ${incomplete}`;
}
