import type { Plan } from '@switchyard/proto';
import { describe, expect, test } from 'vitest';
import { ExpertRoutes } from '../../src/exchange/expert-routes.ts';

/** One expert, which all but worker 0 have, on nodes 0, 0, 0 and 1. */
const plan: Plan = {
  format: 'switchyard-plan',
  version: 1,
  model: { type: 'toy', moeLayers: [0], experts: 1 },
  workers: [0, 0, 0, 1].map((node, w) => ({ name: `w${w}`, node })),
  replicas: [[[1, 2, 3]]],
  provenance: null,
};

describe('ExpertRoutes', () => {
  test('knows who of the node may be asked: those that are avoided where there are no others, whoever else there is', () => {
    const routes = new ExpertRoutes(plan, 0, 1);
    expect(routes.inNode(0, 0)).toEqual([]);
    for (const worker of [1, 2, 3]) routes.setReachable(worker, true);
    expect(routes.inNode(0, 0)).toEqual([1, 2]);
    routes.setAvoided(1, true);
    expect(routes.inNode(0, 0)).toEqual([2]);
    routes.setAvoided(2, true);
    expect(routes.inNode(0, 0)).toEqual([1, 2]);
    routes.setReachable(1, false);
    expect(routes.inNode(0, 0)).toEqual([2]);
  });
});
