import type { Plan } from '@switchyard/proto';
import { limits, parsePlan, readBoundedFile, SwitchyardError } from '@switchyard/proto';
import { CommandFailure, exitStatus } from '../failure.ts';

/** Which workers a cluster has: their names and nodes, in the order of the plan's indexes. */
export interface ClusterShape {
  workers: { name: string; node: string }[];
  plan: Plan | null;
}

export interface ShapeRequest {
  /** Undefined: not asked for. */
  nodes?: number | undefined;
  workersPerNode?: number | undefined;
  plan?: string | undefined;
}

const nodesDefault = 2;
const workersPerNodeDefault = 2;

/**
 * The workers that a plan file names; without one, `nodes` x `workersPerNode` of them, named n0w0, n0w1, … A plan and numbers that contradict it are an error:
 * one of them is not what the user thinks.
 */
export function clusterShape(request: ShapeRequest): ClusterShape {
  if (request.plan === undefined) {
    const nodes = request.nodes ?? nodesDefault;
    const each = request.workersPerNode ?? workersPerNodeDefault;
    if (nodes * each > limits.workersMax)
      throw new CommandFailure(
        `--nodes ${nodes} x --workers-per-node ${each} = ${nodes * each} workers; the limit is ${limits.workersMax}`,
        {
          status: exitStatus.usage,
        },
      );
    const workers = Array.from({ length: nodes * each }, (_, w) => ({
      name: `n${Math.floor(w / each)}w${w % each}`,
      node: `n${Math.floor(w / each)}`,
    }));
    return { workers, plan: null };
  }
  const plan = readPlan(request.plan);
  const perNode = new Map<number, number>();
  for (const { node } of plan.workers) perNode.set(node, (perNode.get(node) ?? 0) + 1);
  if (request.nodes !== undefined && request.nodes !== perNode.size)
    throw new CommandFailure(`--plan ${request.plan} has ${perNode.size} nodes, --nodes says ${request.nodes}`, {
      status: exitStatus.usage,
    });
  if (request.workersPerNode !== undefined && [...perNode.values()].some((count) => count !== request.workersPerNode))
    throw new CommandFailure(
      `--plan ${request.plan} has ${[...perNode.values()].join(', ')} workers on its nodes, --workers-per-node says ${request.workersPerNode}`,
      { status: exitStatus.usage },
    );
  return { workers: plan.workers.map(({ name, node }) => ({ name, node: `n${node}` })), plan };
}

function readPlan(file: string): Plan {
  try {
    return parsePlan(readBoundedFile(file, limits.planBytesMax).toString());
  } catch (error) {
    const message = `--plan ${file}: ${(error as Error).message}`;
    // A file that is there and holds no plan keeps the code that the catalogue has for it.
    if (error instanceof SwitchyardError) throw new SwitchyardError(error.code, message, { param: 'plan', cause: error });
    throw new CommandFailure(message, { status: exitStatus.usage, cause: error });
  }
}
