import { CommandFailure, exitStatus } from '../failure.ts';

/** `bench` runs `serve` when it is given no other: a mistyped subcommand arrives as a flag for the server. */
const subcommands = 'serve, exact, quality, calibrate';

/** Refuses, before a server is started, what cannot be flags of `switchyard up`, and all of them where no server is started. */
export function checkUpFlags(upFlags: readonly string[], url?: string): void {
  const [first] = upFlags;
  if (first === undefined) return;
  const refuse = (message: string) => new CommandFailure(message, { status: exitStatus.usage });
  if (!first.startsWith('-')) throw refuse(`bench has no ${first}: there are ${subcommands}; flags for the server go after --`);
  if (url !== undefined) throw refuse(`flags after -- are for a server that is started here, but --url ${url} names one that runs`);
}

/** `upFlags` for a server that has so many nodes and workers unless they say otherwise; a plan says it, and numbers beside one would contradict it. */
export function withShape(nodes: number, workersPerNode: number, upFlags: readonly string[]): string[] {
  if (valuesOf(upFlags, '--plan').length > 0) return [...upFlags];
  return ['--nodes', String(nodes), '--workers-per-node', String(workersPerNode), ...upFlags];
}

/** Why servers with other workers cannot be started with these flags too; null where they can. */
export function boundToItsWorkers(upFlags: readonly string[]): string | null {
  if (valuesOf(upFlags, '--plan').length > 0) return '--plan names the workers';
  // Less than the nodes there are, which others have fewer of; and answers depend on the plan.
  if (valuesOf(upFlags, '--lossy').some((value) => value.includes('node-limit'))) return '--lossy node-limit depends on the nodes';
  return null;
}

/** What a flag was given, as `--flag value` or `--flag=value`. */
function valuesOf(flags: readonly string[], name: string): string[] {
  return flags.flatMap((flag, at) =>
    flag === name ? [flags[at + 1] ?? ''] : flag.startsWith(`${name}=`) ? [flag.slice(name.length + 1)] : [],
  );
}
