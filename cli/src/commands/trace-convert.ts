import { closeSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { openTrace, writeSwitchyardTrace } from '@switchyard/placement';
import { Command } from 'commander';
import { CommandFailure } from '../failure.ts';
import { integerIn } from '../terminal/option-values.ts';

export function traceConvertCommand(): Command {
  return new Command('convert')
    .description("Write a routing trace of any format as the project's own, which `up --replay-routing` reads")
    .argument('<from>', 'a trace of any format that `switchyard place` reads')
    .argument('<to>', 'where to write it; domains go to <to>.sequences.jsonl')
    .option('--tokens-max <count>', 'keep a sample of about this many tokens of a longer trace', integerIn(1, 50_000_000), 1_000_000)
    .addHelpText('after', '\nExample:\n  $ switchyard trace convert bench/placement/data/gpt-oss-20b.experts.u8.gz gpt-oss.trace')
    .action(async (from: string, to: string, options: { tokensMax: number }) => {
      const opened = await openTrace(from, { tokensMax: options.tokensMax });
      if (opened.kind !== 'routing') throw new CommandFailure(`${from} holds loads per expert only: there are no tokens to write`);
      const { chunks, sequences } = writeSwitchyardTrace(opened.trace, new Date().toISOString());
      // Traces reveal prompts: readable by their owner alone.
      const file = openSync(to, 'w', 0o600);
      for (const chunk of chunks) writeSync(file, chunk);
      closeSync(file);
      writeFileSync(`${to}.sequences.jsonl`, sequences, { mode: 0o600 });
      process.stdout.write(`wrote ${opened.trace.tokens} tokens in ${opened.trace.sequences.length} sequences to ${to}\n`);
    });
}
