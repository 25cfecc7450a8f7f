import { documentFields } from './document-fields.ts';
import { limits } from './limits.ts';

/** What the cluster looks like to the planner. Bandwidths in bytes/s, latencies in seconds one way, memory in bytes. */
export interface Topology {
  format: 'switchyard-topology';
  version: 1;
  nodes: { name: string; workers: { name: string; expertMemoryBytes: number; relativeSpeed: number }[] }[];
  expertBytes: number;
  /** Bytes of one dispatched row and of one returned row. */
  dispatchRowBytes: number;
  combineRowBytes: number;
  intraNode: { bandwidth: number; latency: number };
  interNode: { bandwidth: number; latency: number };
  /** Full matrix between nodes where they are not all alike: overrides interNode. */
  links: { from: number; to: number; bandwidth: number; latency: number }[] | null;
}

const { refusal, record, list, integer, amount, positive, name } = documentFields('topology', 'bad_plan');

/**
 * Checks all of a topology file. Fields that the format does not know are left out of the result.
 * @throws SwitchyardError `bad_plan` naming the field, its value and its limit
 */
export function parseTopology(value: unknown): Topology {
  const file = record('file', value);
  if (file.format !== 'switchyard-topology') throw refusal('format', file.format, '"switchyard-topology"');
  if (file.version !== 1) throw refusal('version', file.version, 1);
  const nodes = list('nodes', file.nodes, 1, limits.nodesMax).map((node, n) => parseNode(`nodes[${n}]`, node));
  const workers = nodes.flatMap((node) => node.workers);
  if (workers.length > limits.workersMax) throw refusal('workers of all nodes', workers.length, `at most ${limits.workersMax}`);
  refuseRepeats('nodes', nodes);
  refuseRepeats('workers', workers);
  return {
    format: 'switchyard-topology',
    version: 1,
    nodes,
    expertBytes: positive('expertBytes', file.expertBytes),
    dispatchRowBytes: positive('dispatchRowBytes', file.dispatchRowBytes),
    combineRowBytes: positive('combineRowBytes', file.combineRowBytes),
    intraNode: parseLink('intraNode', file.intraNode),
    interNode: parseLink('interNode', file.interNode),
    links:
      file.links == null
        ? null
        : list('links', file.links, 0, limits.nodesMax ** 2).map((link, i) => {
            const { from, to } = record(`links[${i}]`, link);
            return {
              from: integer(`links[${i}].from`, from, 0, nodes.length - 1),
              to: integer(`links[${i}].to`, to, 0, nodes.length - 1),
              ...parseLink(`links[${i}]`, link),
            };
          }),
  };
}

function parseNode(field: string, value: unknown): Topology['nodes'][number] {
  const node = record(field, value);
  return {
    name: name(`${field}.name`, node.name),
    workers: list(`${field}.workers`, node.workers, 1, limits.workersMax).map((each, w) => {
      const worker = record(`${field}.workers[${w}]`, each);
      return {
        name: name(`${field}.workers[${w}].name`, worker.name),
        expertMemoryBytes: amount(`${field}.workers[${w}].expertMemoryBytes`, worker.expertMemoryBytes),
        relativeSpeed: positive(`${field}.workers[${w}].relativeSpeed`, worker.relativeSpeed),
      };
    }),
  };
}

function parseLink(field: string, value: unknown): Topology['interNode'] {
  const { bandwidth, latency } = record(field, value);
  return { bandwidth: positive(`${field}.bandwidth`, bandwidth), latency: amount(`${field}.latency`, latency) };
}

/** Plans and questions name nodes and workers. */
function refuseRepeats(what: string, named: readonly { name: string }[]): void {
  const seen = new Set<string>();
  for (const each of named) {
    if (seen.has(each.name)) throw refusal(`name of one of the ${what}`, each.name, 'unlike all others');
    seen.add(each.name);
  }
}
