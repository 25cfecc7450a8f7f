import { type Certificate, holdOut, type RoutingTrace, thinTokens, traceDigest, verifyCertificate } from '@switchyard/placement';
import { Command } from 'commander';
import { CommandFailure } from '../failure.ts';
import { integerIn } from '../terminal/option-values.ts';
import { print } from '../terminal/visible.ts';
import { scoreTokensMax } from './comparison.ts';
import { readCertificate, readPlan, readRouting } from './files.ts';
import { type IdShape, idShape, modelDirHelp, partialShare } from './option-values.ts';

interface Flags {
  heldOut: number;
  seed: number;
  tokensMax: number;
  shape?: IdShape;
  modelDir?: string;
  json?: boolean;
}

export function verifyCommand(): Command {
  return new Command('verify')
    .description('Check a plan, its score and its proven bound again, with code that shares nothing with the planner')
    .argument('<plan>', 'the plan')
    .argument('<trace>', 'the trace that the plan was made from')
    .argument('<certificate>', 'the certificate written beside the plan')
    .option('--held-out <share>', 'share of the sequences that was held out when planning', partialShare, 0.25)
    .option('--seed <number>', 'seed of that planning', integerIn(0, 4_294_967_295), 1)
    .option('--tokens-max <count>', 'tokens held in memory, as when planning', integerIn(1, 50_000_000), 400_000)
    .option('--shape <LxKxE>', 'layers x top-k x experts of a dump of expert ids without .shape.json', idShape)
    .option('--model-dir <folder>', modelDirHelp)
    .option('--json', 'print as JSON')
    .action(async (planPath: string, tracePath: string, certificatePath: string, flags: Flags) => {
      const plan = readPlan(planPath);
      const certificate = readCertificate(certificatePath);
      const trace = await readRouting(tracePath, flags.tokensMax, flags);
      const judged = judgedBy(certificate, trace, flags);
      const verdict = verifyCertificate(plan, judged, certificate);
      if (flags.json) print(`${JSON.stringify({ format: 'switchyard-place-verify', version: 1, ...verdict })}\n`);
      else for (const { ok, text } of verdict.checks) print(`${ok ? 'ok  ' : 'FAIL'}  ${text}\n`);
      if (!verdict.ok) throw new CommandFailure('the certificate does not hold');
    });
}

/**
 * The tokens that a certificate is for, which it names by digest: what planning held out or the whole, thinned as `place` does. The very trace where it is neither: a
 * library's user may have proven by all of it.
 */
function judgedBy(certificate: Certificate, trace: RoutingTrace, { heldOut, seed }: Flags): RoutingTrace {
  for (const of of [() => holdOut(trace, heldOut, seed).test, () => trace]) {
    const tokens = thinTokens(of(), scoreTokensMax);
    if (traceDigest(tokens) === certificate.trace) return tokens;
  }
  return trace;
}
