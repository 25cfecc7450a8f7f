import type { FanOutSearch, NodePlacement } from './fan-out-search.ts';
import type { LayerPrices } from './layer-search.ts';

/**
 * Rounds of improvement, so many at most, until one says that it was the last or the search is stopped. Leaves the search with the best that it was through: at moving
 * prices rounds may end worse than they were.
 */
export async function bestOfRounds(search: FanOutSearch, roundsMax: number, improve: (round: number) => Promise<boolean>): Promise<void> {
  const seen = new BestSeen(search);
  for (let round = 0; round < roundsMax && !search.options.stop(); round++) {
    const last = await improve(round);
    seen.look();
    if (last) break;
  }
  seen.resume();
}

/** The best by merit of what a search has been through. */
export class BestSeen {
  private readonly search: FanOutSearch;
  private best: NodePlacement & { merit: number; prices: LayerPrices };

  /** The search as it is now is the first that is seen. */
  constructor(search: FanOutSearch) {
    this.search = search;
    this.best = this.present();
  }

  look(): void {
    if (this.search.merit() < this.best.merit) this.best = this.present();
  }

  /** Leaves the search with the best, prices included. */
  resume(): void {
    Object.assign(this.search.prices, this.best.prices);
    this.search.resume(this.best);
  }

  private present(): NodePlacement & { merit: number; prices: LayerPrices } {
    const { search } = this;
    return { ...search.result(), merit: search.merit(), prices: { ...search.prices } };
  }
}
