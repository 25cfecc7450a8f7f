import { type DispatchFrame, type Link, limits } from '@switchyard/proto';
import { urgencyOf } from './urgency.ts';

/** What a link has of the room. */
interface Share {
  bytes: number;
  /** Large frames for the whole node come by it: it is the one to wait when room is short. */
  yields: boolean;
}

/**
 * Bounds the bytes of frames that a worker has taken and not answered, over all its links: beyond the bound nothing more is read of some of them until half has been
 * answered. Those of neighbours are always read, or two gateways with no room left would wait for each other's answers; so are those of few rows, which are small.
 */
export class FrameRoom {
  private readonly bytesMax: number;
  private readonly shares = new Map<Link, Share>();
  /** Whoever has waited longest first. */
  private readonly paused = new Set<Link>();
  private bytes = 0;
  private resuming = false;

  constructor(bytesMax: number = limits.unansweredBytesMax) {
    this.bytesMax = bytesMax;
  }

  open(link: Link): void {
    this.shares.set(link, { bytes: 0, yields: false });
  }

  take(link: Link, { bytes, scope, rows }: DispatchFrame): void {
    const share = this.shares.get(link)!;
    share.bytes += bytes.length;
    this.bytes += bytes.length;
    share.yields ||= scope === 'node' && urgencyOf(rows) === 'bulk';
    if (this.bytes > this.bytesMax) this.pause();
  }

  /** The frame has been answered. Of a link that is closed nothing counts any more. */
  give(link: Link, { bytes }: DispatchFrame): void {
    const share = this.shares.get(link);
    if (share !== undefined) this.free(share, bytes.length);
  }

  close(link: Link): void {
    const share = this.shares.get(link)!;
    this.shares.delete(link);
    this.paused.delete(link);
    this.free(share, share.bytes);
  }

  private free(share: Share, bytes: number): void {
    share.bytes -= bytes;
    this.bytes -= bytes;
    if (this.resuming || this.paused.size === 0 || this.bytes > this.bytesMax / 2) return;
    this.resuming = true;
    // Frames that were kept come at once: not in the midst of answering another.
    setImmediate(() => this.resume());
  }

  private pause(): void {
    for (const [link, { yields }] of this.shares) {
      if (!yields) continue;
      link.pause();
      this.paused.add(link);
    }
  }

  private resume(): void {
    this.resuming = false;
    for (const link of this.paused) {
      if (this.bytes > this.bytesMax / 2) return;
      this.paused.delete(link);
      link.resume();
    }
  }
}
