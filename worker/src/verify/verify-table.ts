import type { PhaseReport, VerifyReport } from './verify.ts';

/** A report as people read it: one line per case and phase, then what went wrong. */
export function formatVerifyReport(report: VerifyReport): string {
  const { device } = report;
  const lines = [
    `${report.dir}: ${report.modelType}, class ${report.numericClass}, ${device.backend} ${device.isa}, ${device.threads} thread${device.threads === 1 ? '' : 's'}`,
    '',
    `case  tokens  phase    max |Δ|/std  at position  experts      bits`,
  ];
  for (const one of report.cases) {
    for (const phase of one.phases)
      lines.push(
        [
          String(one.case).padStart(4),
          String(one.tokens).padStart(6),
          phase.phase.padEnd(7),
          phase.difference.toExponential(2).padStart(11),
          String(phase.position).padStart(11),
          expertsCell(phase).padEnd(11),
          phase.firstDifferentBit < 0 ? 'equal' : `differ from logit ${phase.firstDifferentBit}`,
          phase.ok ? '' : 'FAIL',
        ]
          .join('  ')
          .trimEnd(),
      );
    const { expected, firstDifference: at } = one.generated;
    lines.push(`      greedy continuation: ${at < 0 ? `${expected.length} tokens equal` : `differs at token ${at}  FAIL`}`);
  }
  const { split, backends } = report;
  const mixed = new Set(backends).size > 1 ? ` (${backends.join(', ')})` : '';
  const differing = split.cases.filter((one) => one.firstDifferentBit >= 0);
  lines.push(
    '',
    `over ${split.workers} workers in ${split.nodes} node${split.nodes === 1 ? '' : 's'}${mixed}: ${split.ok ? 'the same bits' : 'FAIL'}`,
  );
  for (const one of differing)
    lines.push(`      case ${one.case}, home ${one.home}, ${one.phase}: differs from logit ${one.firstDifferentBit}`);
  for (const one of report.cases) for (const phase of one.phases) lines.push(...wrongExperts(one.case, phase));
  lines.push(`${report.status} (tolerance ${report.tolerance.toExponential(0)})`);
  return lines.join('\n');
}

function expertsCell({ experts }: PhaseReport): string {
  if (experts === null) return 'not given';
  return experts.wrong === 0 ? 'equal' : `${experts.wrong}/${experts.compared} wrong`;
}

function wrongExperts(index: number, { phase, experts }: PhaseReport): string[] {
  const first = experts?.first;
  if (!first) return [];
  return [`case ${index}, ${phase}: layer ${first.layer}, position ${first.position} chose [${first.got}], expected [${first.expected}]`];
}
