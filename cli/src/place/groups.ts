import { maskNodesMax, type RoutingTrace } from '@switchyard/placement';
import { CommandFailure, exitStatus } from '../failure.ts';
import type { GroupRule } from './option-values.ts';
import type { SearchFlags } from './search-options.ts';

interface GroupFlags extends SearchFlags {
  groups?: GroupRule;
  budgetBytes?: number;
}

const refusal = (why: string) => new CommandFailure(why, { status: exitStatus.usage });

const anneals = ({ anneal = 0, maxR }: GroupFlags): boolean => anneal > 0 || maxR !== undefined;

/** What goes with no groups that stay whole; before a long trace is read. */
export function refuseGroups(flags: GroupFlags, nodes: number): void {
  if (flags.groups === undefined || flags.groups === 'free') return;
  if (flags.budgetBytes !== undefined) throw refusal('--groups whole and --budget-bytes exclude each other: groups are split on the way');
  if (anneals(flags)) throw refusal('--groups whole goes without --anneal and --max-r: annealing moves single experts');
  if (flags.model === 'chain') throw refusal('--groups whole needs --model fan-out or home-rank; it is chain');
  if (flags.robust.kind !== 'mean') throw refusal(`--groups whole and --robust ${flags.robust.kind} exclude each other`);
  if (nodes > maskNodesMax)
    throw refusal(`--groups whole is for at most ${maskNodesMax} nodes; the topology has ${nodes} (--groups free lets experts go apart)`);
}

/** Groups that stay whole; null: none. */
export function groupsToKeep(flags: GroupFlags, trace: RoutingTrace, nodes: number): number | null {
  const { groups: rule, model, robust, budgetBytes } = flags;
  // One group is what models without any have.
  const groups = trace.groups === undefined || trace.groups < 2 ? null : trace.groups;
  if (rule === undefined) {
    // What was not asked for gives way to what was, and to clusters that are searched in groups of nodes.
    const may = model !== 'chain' && robust.kind === 'mean' && budgetBytes === undefined && !anneals(flags) && nodes <= maskNodesMax;
    return may ? groups : null;
  }
  if (rule === 'free') return null;
  if (rule !== 'whole') return rule;
  if (groups === null) throw refusal('the trace does not say how many groups its layers have: give their number, such as --groups 8');
  return groups;
}
