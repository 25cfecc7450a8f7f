import { calibratedTopology, parseCalibration } from '@switchyard/placement';
import { dialBest, listenAny, type Topology } from '@switchyard/proto';
import { describe, expect, it } from 'vitest';
import { fitDevice } from '../src/calibration/device-fit.ts';
import { answerProbes, probeLink } from '../src/calibration/link-probe.ts';

const device = {
  flopsPerRow: 6e6,
  flopsPerSecond: 3e11,
  memoryBytesPerSecond: 2e10,
  densePerTokenSeconds: 4e-6,
  layerOverheadSeconds: 9e-6,
};

describe('calibration', () => {
  it('finds the device that two loads were made by', () => {
    const shape = { moeLayers: 24, topK: 4, expertBytes: 6e6, flopsPerRow: device.flopsPerRow };
    const layerSeconds = (tokens: number, steps: number) =>
      24 * (steps * device.layerOverheadSeconds + tokens * device.densePerTokenSeconds);
    const decode = {
      tokens: 100,
      steps: 100,
      attention: layerSeconds(100, 100),
      experts: (100 * 24 * 4 * shape.expertBytes) / device.memoryBytesPerSecond,
    };
    const prefill = {
      tokens: 1e6,
      steps: 1,
      attention: layerSeconds(1e6, 0),
      experts: (1e6 * 24 * 4 * shape.flopsPerRow) / device.flopsPerSecond,
    };
    const fitted = fitDevice(shape, decode, prefill);
    for (const [field, value] of Object.entries(device)) expect(fitted[field as keyof typeof fitted]).toBeCloseTo(value, 9);
  });

  it('reads what it wrote, puts measured links in the place of stated ones, and names what is wrong', () => {
    const file = {
      format: 'switchyard-calibration',
      version: 1,
      provenance: {},
      device,
      interNode: { bandwidth: 1e9, latency: 5e-5 },
      intraNode: null,
    };
    const calibration = parseCalibration(JSON.parse(JSON.stringify(file)));
    expect(calibration).toEqual(file);
    const links = { interNode: { bandwidth: 1, latency: 1 }, intraNode: { bandwidth: 2, latency: 2 } };
    expect(calibratedTopology(links as Topology, calibration)).toEqual({ interNode: file.interNode, intraNode: links.intraNode });
    const broken = (change: object) => () => parseCalibration({ ...file, ...change });
    expect(broken({ version: 2 })).toThrow(/format is "switchyard-calibration", must be "switchyard-calibration" version 1/);
    expect(broken({ device: { ...device, flopsPerSecond: 0 } })).toThrow(/device.flopsPerSecond is 0, must be a number above 0/);
    expect(broken({ device: { ...device, layerOverheadSeconds: undefined } })).toThrow(/device.layerOverheadSeconds is absent/);
    expect(broken({ interNode: { bandwidth: 1, latency: -1 } })).toThrow(/interNode.latency is -1, must be a number of at least 0/);
  });

  it('probes a real link, and says when its other end goes away', async () => {
    const options = { token: '', tls: null };
    const listeners = await listenAny(['tcp://127.0.0.1:0'], options, answerProbes);
    const link = await dialBest(listeners.addresses, options);
    const { latency, bandwidth } = await probeLink(link);
    expect(latency).toBeGreaterThan(0);
    expect(latency).toBeLessThan(0.1);
    expect(bandwidth).toBeGreaterThan(1e6);
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
