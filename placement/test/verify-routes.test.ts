import { chooseReplicas } from '@switchyard/proto';
import { expect, it, vi } from 'vitest';
import { type Certificate, place, prove, verifyCertificate } from '../src/index.ts';
import { testTopology, toyTrace } from './slice.ts';

vi.mock('@switchyard/proto', async (original) => {
  const proto = await original<typeof import('@switchyard/proto')>();
  return { ...proto, chooseReplicas: vi.fn(proto.chooseReplicas) };
});

it('routes every token once where all claims are for the same homes, and anew for others', async () => {
  const trace = toyTrace({ layers: 3, experts: 8, topK: 2, sequences: 8, tokensEach: 10 });
  const { plan, cluster, homes } = await place(trace, testTopology(2, 1, 16), { starts: 1 });
  const text = JSON.stringify(await prove(plan, cluster, trace, { homes, claims: ['fan-out', 'load'], rounds: 1 }));
  const routed = (certificate: Certificate) => {
    vi.mocked(chooseReplicas).mockClear();
    const { ok } = verifyCertificate(plan, trace, certificate);
    return { ok, choices: vi.mocked(chooseReplicas).mock.calls.length };
  };
  expect(routed(JSON.parse(text))).toEqual({ ok: true, choices: 3 * trace.tokens });
  const apart: Certificate = JSON.parse(text);
  if (apart.claims[1].kind === 'load') apart.claims[1].homes[0] = 1 - homes[0];
  expect(routed(apart)).toEqual({ ok: false, choices: 6 * trace.tokens });
});
