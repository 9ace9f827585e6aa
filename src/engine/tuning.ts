/**
 * Kernel variants that measurement found faster than the static choice, by problem. The engine keeps them and kernels
 * ask; who measures and where the answers are stored is decided above. Without answers the static choice serves.
 */

/** An operation and its sizes, enough to run it again: plain JSON. */
export type Problem = Readonly<Record<string, string | number | boolean>>;

export class Tuning {
  /** Called with every problem that is asked for. */
  onProblem: ((problem: Problem) => void) | null = null;

  /** @param choices names of variants by `keyOf` a problem */
  constructor(readonly choices: ReadonlyMap<string, string> = new Map()) {}

  static keyOf(problem: Problem): string {
    return JSON.stringify(problem);
  }

  choose(problem: Problem): string | undefined {
    this.onProblem?.(problem);
    return this.choices.size === 0 ? undefined : this.choices.get(Tuning.keyOf(problem));
  }
}
