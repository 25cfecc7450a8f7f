import {
  contiguousPlan,
  limits,
  nodeLimitProblem,
  type Plan,
  parseLossy,
  parsePlan,
  readBoundedFile,
  SwitchyardError,
} from '@switchyard/proto';
import type { Config } from './config.ts';

/**
 * The plan of a file, or experts laid out contiguously over nodes x workersPerNode.
 *
 * @throws SwitchyardError `bad_plan`, or `invalid_request` for a node limit that the plan makes void, naming the option
 */
export function choosePlan(config: Config, model: Plan['model']): Plan {
  const plan = config.plan === null ? contiguous(config, model) : readPlan(config.plan, model);
  const problem = nodeLimitProblem(parseLossy(config.lossy), plan.workers);
  if (problem !== null) throw new SwitchyardError('invalid_request', problem, { param: 'lossy' });
  return plan;
}

function contiguous({ nodes, workersPerNode }: Config, model: Plan['model']): Plan {
  const count = nodes * workersPerNode;
  if (count > limits.workersMax)
    throw new SwitchyardError(
      'bad_plan',
      `--nodes ${nodes} with --workers-per-node ${workersPerNode} make ${count} workers; the limit is ${limits.workersMax}`,
    );
  const workers = Array.from({ length: count }, (_, i) => {
    const node = Math.floor(i / workersPerNode);
    return { name: `n${node}w${i % workersPerNode}`, node };
  });
  return contiguousPlan(model, workers);
}

function readPlan(file: string, model: Plan['model']): Plan {
  try {
    return parsePlan(readBoundedFile(file, limits.planBytesMax).toString(), { model });
  } catch (error) {
    throw new SwitchyardError('bad_plan', `--plan ${file}: ${(error as Error).message}`, { cause: error });
  }
}
