import { calibratedTopology, parseCalibration } from '@switchyard/placement';
import { dialBest, listenAny, type Topology } from '@switchyard/proto';
import { describe, expect, it } from 'vitest';
import { fitHost } from '../src/calibration/host-fit.ts';
import { answerProbes, probeLink } from '../src/calibration/link-probe.ts';

const host = {
  step: { fixed: 2e-4, perRow: 1e-6, perToken: 3e-5 },
  segment: { fixed: 9e-6, perRow: 4e-6, perContext: 1e-8 },
  experts: { fixed: 0, perRow: 2e-6, perExpert: 3e-4 },
  frame: { fixed: 0, perByte: 0 },
  wake: 0,
  outside: { perRequest: 0, perStep: 0, perToken: 0 },
};

describe('calibration', () => {
  it('finds the host that three loads were made by', () => {
    const shape = { moeLayers: 24, experts: 32, topK: 4 };
    const load = (tokens: number, steps: number, outputs: number, contextTokens: number) => ({
      ...{ tokens, steps, outputs, contextTokens },
      attention: 24 * (steps * host.segment.fixed + tokens * host.segment.perRow + contextTokens * host.segment.perContext),
      experts: 24 * (4 * tokens * host.experts.perRow + steps * 32 * (1 - (1 - 4 / 32) ** (tokens / steps)) * host.experts.perExpert),
      rest: steps * host.step.fixed + tokens * host.step.perRow + outputs * host.step.perToken,
    });
    const fitted = fitHost(shape, [load(666, 576, 576, 40_000), load(192, 6, 6, 3168), load(2304, 12, 6, 443_520)]);
    for (const [part, costs] of Object.entries(host))
      for (const [field, seconds] of Object.entries(costs))
        expect((fitted[part as keyof typeof host] as Record<string, number>)[field], `${part}.${field}`).toBeCloseTo(seconds, 12);
  });

  it('reads what it wrote, puts measured links in the place of stated ones, and names what is wrong', () => {
    const file = {
      format: 'switchyard-calibration',
      version: 1,
      provenance: {},
      host,
      interNode: { bandwidth: 1e9, latency: 5e-5 },
      intraNode: null,
    };
    const calibration = parseCalibration(JSON.parse(JSON.stringify(file)));
    expect(calibration).toEqual(file);
    const links = { interNode: { bandwidth: 1, latency: 1 }, intraNode: { bandwidth: 2, latency: 2 } };
    expect(calibratedTopology(links as Topology, calibration)).toEqual({ interNode: file.interNode, intraNode: links.intraNode });
    const broken = (change: object) => () => parseCalibration({ ...file, ...change });
    expect(broken({ version: 2 })).toThrow(/format is "switchyard-calibration", must be "switchyard-calibration" version 1/);
    expect(broken({ host: { ...host, wake: -1 } })).toThrow(/host.wake is -1, must be a number of at least 0/);
    expect(broken({ host: { ...host, step: { fixed: 1 } } })).toThrow(/host.step.perRow is absent, must be a number of at least 0/);
    expect(broken({ device: {}, host: undefined })).toThrow(/host is absent, must be an object/);
    expect(broken({ interNode: { bandwidth: 1, latency: -1 } })).toThrow(/interNode.latency is -1, must be a number of at least 0/);
  });

  it('probes a real link, and says when its other end goes away', async () => {
    const options = { token: '', tls: null };
    const listeners = await listenAny(['tcp://127.0.0.1:0'], options, answerProbes);
    const link = await dialBest(listeners.addresses, options);
    const started = performance.now();
    const { latency, bandwidth } = await probeLink(link);
    const seconds = (performance.now() - started) / 1000;
    // Medians: half of 400 round trips and of 7 bursts took as long or longer, and all of them no longer than everything.
    expect(latency).toBeGreaterThan(0);
    expect(200 * 2 * latency).toBeLessThan(seconds);
    expect(3 * 24 * 1024 * 1024).toBeLessThan(bandwidth * seconds);
    // 400 echoes came back whole, and of 7 bursts one byte each.
    expect(link.bytes.sent).toBeGreaterThan(7 * 24 * 1024 * 1024);
    expect(link.bytes.received).toBeGreaterThanOrEqual(500 * 64 + 7);
    await link.close();
    await listeners.close();
    const silent = await listenAny(['tcp://127.0.0.1:0'], options, (far) => void far.close());
    const cut = await dialBest(silent.addresses, options);
    await expect(probeLink(cut)).rejects.toThrow(/closed/);
    await silent.close();
  });
});
