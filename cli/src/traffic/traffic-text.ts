import { formatBytes, formatDecimal } from '../terminal/quantity.ts';
import { textTable } from '../terminal/table.ts';
import type { FlowMatrix, TrafficReport } from './traffic-report.ts';

/** For people: the matrix of nodes, that of workers, and what it comes to per row. */
export function trafficText(report: TrafficReport): string {
  const { model, seconds, tokens, rows } = report;
  const span = seconds === null ? 'since the workers were started' : `in ${formatDecimal(seconds)} s`;
  return [
    `${model}: ${tokens} tokens ${span}`,
    '',
    matrixText('node > node', report.nodes, seconds),
    '',
    matrixText('worker > worker', report.workers, seconds),
    '',
    ...(rows === 0 ? ['no rows went through MoE layers'] : perRow(report)),
    `homes: ${homesText(report.homes)}`,
  ].join('\n');
}

function matrixText(title: string, { names, bytes, frames }: FlowMatrix, seconds: number | null): string {
  const cell = (b: number, f: number) =>
    f === 0 && b === 0
      ? '-'
      : seconds === null
        ? `${formatBytes(Math.round(b))} in ${f}`
        : `${formatBytes(Math.round(b / seconds))}/s in ${formatDecimal(f / seconds)}/s`;
  return textTable(
    [title, ...names],
    names.map((name, from) => [name, ...names.map((_, to) => cell(bytes[from][to], frames[from][to]))]),
  );
}

function perRow({ interNodeBytes, intraNodeBytes, r, homeShare, formula, plan }: TrafficReport): string[] {
  const lines = [
    `per token and MoE layer: ${formatBytes(Math.round(interNodeBytes))} between nodes, ${formatBytes(Math.round(intraNodeBytes))} inside them`,
    `r, remote nodes per token and layer: ${formatDecimal(r ?? 0)}${homeShare === null ? '' : `; served on the home's node: ${percent(homeShare)}`}`,
  ];
  if (formula !== null) {
    const { rowBytes, sumBytes, predicted, measured, deviation, within, headerBytes, tableBytes, wholeDeviation, wholeWithin } = formula;
    lines.push(
      `r x (row ${rowBytes} B + sum ${Math.round(sumBytes)} B) = ${Math.round(predicted)} B, measured ${Math.round(measured)} B: ${verdict(deviation, within)}`,
    );
    if (tableBytes !== null && wholeDeviation !== null && wholeWithin !== null)
      lines.push(
        `with headers (${Math.round(headerBytes)} B) and tables of experts (${Math.round(tableBytes)} B): ${verdict(wholeDeviation, wholeWithin)}`,
      );
  }
  if (plan !== null)
    lines.push(
      `the plan promised r ${formatDecimal(plan.r)} and ${percent(plan.homeShare)} at home${plan.drift === null ? '' : `: r has drifted by ${signed(plan.drift)}`}`,
    );
  return lines;
}

function homesText(homes: Record<string, number>): string {
  const used = Object.entries(homes).filter(([, count]) => count > 0);
  return used.length === 0 ? 'none chosen yet' : used.map(([reason, count]) => `${count} ${reason}`).join(', ');
}

const verdict = (deviation: number, within: boolean) => `${signed(deviation)}, ${within ? 'within' : 'not within'} 5%`;
const percent = (share: number) => `${(100 * share).toFixed(1)}%`;
const signed = (share: number) => `${share >= 0 ? '+' : ''}${(100 * share).toFixed(1)}%`;
