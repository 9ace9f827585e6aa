/** The shipped classifier and its test images, for the tests of attacks. */
import { lengthOf, type Norm } from '../../src/attacks/attack.ts';
import { loadFashionMnist } from '../../src/data/fashion-mnist.ts';
import { loadClassifier } from '../../src/models.ts';
import { testDevice } from '../support.ts';

/** @param count the first test images */
export async function fashion(count: number) {
  const device = await testDevice();
  const { net } = loadClassifier(device);
  const { images, labels, shape } = loadFashionMnist({ count });
  const x = device.tensor(images, shape);
  const size = images.length / count;
  return {
    device,
    net,
    x,
    labels: [...labels],
    images,
    size,
    dispose: () => {
      x.dispose();
      net.dispose();
    },
  };
}

/** Fails unless every image is in [0, 1] and within eps of its original, in real numbers. */
export function withinBall(
  adversarial: Float32Array,
  clean: Float32Array,
  size: number,
  norm: Norm,
  eps: number,
): void {
  for (let i = 0; i < adversarial.length / size; i++) {
    for (let k = i * size; k < (i + 1) * size; k++) {
      const v = adversarial[k] as number;
      if (!(v >= 0 && v <= 1)) throw new Error(`image ${i} holds ${v}`);
    }
    const [from, to] = [i * size, (i + 1) * size];
    const length = lengthOf(norm, adversarial.subarray(from, to), clean.subarray(from, to));
    if (length > eps) throw new Error(`image ${i} is ${length} from its original, more than ${eps}`);
  }
}
