/**
 * What a defended classifier is: it judges images, a fresh seed each time, and it says what an attacker may ask of
 * it. A defence that attacks cannot ask is no defence: each declares at least one target, and which of them knows
 * the defence.
 */
import type { OptionTexts } from '../attacks/spec.ts';
import type { Target } from '../attacks/target.ts';
import type { CmapOptions } from '../cmap/options.ts';
import type { TraceEntry } from '../cmap/purify.ts';
import type { Classifier, Vote } from '../cmap/vote.ts';
import { InputError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import type { ConsistencyModel } from '../nets/consistency.ts';

/** Whether the attacker's target contains the defence. */
export type Knowledge = 'adaptive' | 'transfer';

export interface AttackSurface {
  readonly target: Target;
  readonly knowledge: Knowledge;
  /** True where the pullback is the derivative of the forward pass, so that finite differences must agree. */
  readonly exact: boolean;
  /** Network evaluations of one evaluation of the target; default 1. */
  readonly cost?: number;
  /** One line: what is differentiated, and how. */
  readonly summary: string;
  /**
   * Its logits decide as the whole defence does, every time: an image that it misreads needs no attack. Default false.
   */
  readonly decides?: boolean;
  /** What can be set, for the record. */
  readonly settings?: Readonly<Record<string, unknown>>;
  /**
   * Another one of its kind, by options as text (`pgd@unroll:last=10`).
   * @throws InputError for options that it has not, or values out of range
   */
  readonly with?: (options: OptionTexts) => AttackSurface;
}

export interface JudgeHooks {
  /** Seed of the defence's own randomness. */
  readonly seed: number;
  /** Global number of each image: its randomness depends on it, not on the batch. */
  readonly imageIds: readonly number[];
  /** Note the labels of the K images, where there is an optimisation, about so many times, at its end too; default none. */
  readonly looks?: number;
  /** Part of the judgement that is done, in [0, 1], and what is being done. */
  readonly onProgress?: (part: number, what: string) => void;
}

export interface Judged {
  /** A label an image, with the votes that led to it; one vote where nothing is voted on. */
  readonly votes: Vote[];
  /** What was classified, [N, K, H, W, C] in [0, 1]; null where images are classified as they come. The caller disposes. */
  readonly purified: Tensor | null;
  /** Of an optimisation of K images: by image, the label of each of the K, and the losses of every iteration. */
  readonly purification?: readonly {
    readonly labels: readonly number[];
    readonly trace: readonly TraceEntry[];
    /** Labels after so many iterations. */
    readonly looks: readonly { readonly iteration: number; readonly labels: readonly number[] }[];
  }[];
}

export interface Defence {
  readonly name: string;
  readonly classes: number;
  /** Whether two judgements of one image can differ. */
  readonly randomised: boolean;
  /** All settings, for the record. */
  readonly settings: Readonly<Record<string, unknown>>;
  /** The bare classifier. */
  readonly classifier: Classifier;
  /** What attacks can ask, by name; `classifier`, the bare one, is always there. */
  readonly surfaces: Readonly<Record<string, AttackSurface>>;
  /** Name of the surface that attacks take unless told otherwise: the strongest there is. */
  readonly surface: string;
  /** What attacks on the generator itself need, where the defence has one. */
  readonly generator?: { readonly model: ConsistencyModel; readonly cmap: CmapOptions };
  /** Network evaluations of one judgement of one image, a backward pass counted as one. */
  readonly passes: number;
  /** The whole defence, once. @param x [N, H, W, C] in [0, 1] */
  judge(x: Tensor, hooks: JudgeHooks): Promise<Judged>;
  /** Seconds that a judgement of these images will take, from a short measurement; by default one is made. */
  estimate?(x: Tensor): Promise<number>;
  /** Gives back what its surfaces and judgements keep on the device from use to use; the networks stay. */
  dispose?(): void;
}

/** The surface of the bare classifier: adaptive where nothing defends it. */
export function bareSurface(classifier: Classifier, knowledge: Knowledge): AttackSurface {
  return {
    target: classifier,
    knowledge,
    exact: true,
    decides: knowledge === 'adaptive',
    summary: 'the bare classifier, differentiated exactly',
  };
}

/** Votes of one label each. */
export function single(labels: readonly number[], classes: number): Vote[] {
  return labels.map((label) => {
    const votes = new Array<number>(classes).fill(0);
    votes[label] = 1;
    return { label, votes };
  });
}

/** @throws InputError where generator and classifier do not take the same images */
export function checkFit(
  generated: readonly number[],
  { imageShape }: { readonly imageShape?: readonly number[] },
): void {
  if (imageShape && String(imageShape) !== String(generated))
    throw new InputError(
      `the generator makes images of [${generated}], the classifier takes [${imageShape}]; choose a pair that fits`,
    );
}
