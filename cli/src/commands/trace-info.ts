import { Command } from 'commander';
import { readRouting } from '../place/files.ts';
import { type IdShape, idShape } from '../place/option-values.ts';
import { integerIn } from '../terminal/option-values.ts';
import { counted } from '../terminal/quantity.ts';
import { textTable } from '../terminal/table.ts';
import { print } from '../terminal/visible.ts';
import type { TraceSummary } from '../trace/trace-summary.ts';
import { summariseTrace, tokensText } from '../trace/trace-summary.ts';

export function traceInfoCommand(): Command {
  return new Command('info')
    .description('Say what a routing trace holds: tokens, sequences, domains, how evenly experts are used')
    .argument('<file>', 'a trace of any format that `switchyard place` reads')
    .option('--tokens-max <count>', 'read a sample of about this many tokens from a longer trace', integerIn(1, 50_000_000), 1_000_000)
    .option('--shape <LxKxE>', 'layers x top-k x experts of a dump of expert ids without .shape.json, like 24x4x32', idShape)
    .option('--json', 'print as JSON')
    .addHelpText('after', '\nExample:\n  $ switchyard trace info requests.trace')
    .action(async (file: string, options: { tokensMax: number; shape?: IdShape; json?: boolean }) => {
      const summary = summariseTrace(await readRouting(file, options.tokensMax, options));
      print(options.json ? `${JSON.stringify(summary, null, 2)}\n` : formatSummary(summary));
    });
}

function formatSummary(summary: TraceSummary): string {
  const { tokens, generatedTokens, imbalance } = summary;
  const lines = [
    `${summary.model}: ${summary.layers} MoE layers, ${summary.experts} experts, top-${summary.topK}`,
    `${tokensText(summary)} (${generatedTokens} generated) in ${counted(summary.sequences, 'sequence')}`,
    `busiest expert over the mean: ${imbalance.mean.toFixed(2)} on average, ${imbalance.max.toFixed(2)} in layer ${imbalance.layer}`,
  ];
  if (summary.domainDistance !== null)
    lines.push(`expert shares of two domains are ${summary.domainDistance.toFixed(2)} apart (0 same, 1 disjoint)`);
  const rows = summary.domains.map((d) => [
    d.domain ?? '(none)',
    d.sequences,
    d.tokens,
    `${((100 * d.tokens) / Math.max(1, tokens)).toFixed(1)} %`,
  ]);
  return `${lines.join('\n')}\n\n${textTable(['domain', 'sequences', 'tokens', 'share'], rows)}\n`;
}
