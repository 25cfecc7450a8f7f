import type { Answer } from '../requests/answer.ts';
import { trafficRatios } from '../requests/traffic.ts';

/**
 * Where a sequence lived and what its rows cost the network (docs/api.md): `return_traffic`. Figures are null where nothing was counted: no MoE layer was run, or
 * the worker was lost.
 */
export function billOf({ home, movedFrom, traffic }: Answer, workers: readonly { name: string; node: number }[]): Record<string, unknown> {
  if (home === null) return {};
  const { r, homeShare } = trafficRatios(traffic);
  const { name, node } = workers[home.worker];
  return {
    home: name,
    node,
    reason: home.reason,
    expected_home_share: home.expectedShare,
    moved_from: movedFrom === null ? null : workers[movedFrom.worker].name,
    rows: traffic.rows,
    r,
    home_share: homeShare,
    inter_node_bytes: Math.round(traffic.interNodeBytes),
    intra_node_bytes: Math.round(traffic.intraNodeBytes),
  };
}
