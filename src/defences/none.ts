/** No defence: the baseline of every table, and what every attack must break. */
import { type Classifier, classify } from '../cmap/vote.ts';
import { bareSurface, type Defence, single } from './defence.ts';

export function undefended(classifier: Classifier): Defence {
  return {
    name: 'none',
    classes: classifier.classes,
    randomised: false,
    settings: {},
    classifier,
    surfaces: { classifier: bareSurface(classifier, 'adaptive') },
    surface: 'classifier',
    passes: 1,
    judge: async (x) => ({
      votes: single(await classify(classifier, x), classifier.classes),
      purified: null,
    }),
  };
}
