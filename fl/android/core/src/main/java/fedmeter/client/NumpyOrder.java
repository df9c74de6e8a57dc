package fedmeter.client;

/**
 * The order that {@code numpy.random.default_rng([...]).permutation(n)} draws, so that a client in Java meets the batches
 * that one in Python meets.
 *
 * <p>NumPy's SeedSequence (numpy/random/bit_generator.pyx, after O'Neill's randutils), PCG64 (XSL-RR 128/64; O'Neill,
 * "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms", 2014) and Fisher-Yates shuffle, as they
 * have been since NumPy 1.17. It does not promise to keep them (NEP 19); tests/android compares with the NumPy at hand.
 */
final class NumpyOrder {
    private static final int POOL = 4;
    private static final int INIT_A = 0x43b0d7e5;
    private static final int MULT_A = 0x931e8875;
    private static final int INIT_B = 0x8b51f9dd;
    private static final int MULT_B = 0x58f38ded;
    private static final int MIX_L = 0xca01f9dd;
    private static final int MIX_R = 0x4973f715;
    private static final long MULTIPLIER_HIGH = 0x2360ed051fc65da4L;
    private static final long MULTIPLIER_LOW = 0x4385df649fccf645L;
    private static final long WORD = 0xffffffffL;

    private long stateHigh;
    private long stateLow;
    private final long incrementHigh;
    private final long incrementLow;
    private int kept;
    private boolean hasKept;
    private int hash = INIT_A;

    private NumpyOrder(long[] entropy) {
        long[] seed = state(pool(words(entropy)));
        incrementHigh = seed[2] << 1 | seed[3] >>> 63;
        incrementLow = seed[3] << 1 | 1;
        step();
        add(seed[0], seed[1]);
        step();
    }

    /** The numbers from 0 to n - 1. Throws Usage where the seed holds a number below zero, as NumPy does. */
    static int[] permutation(int n, long... seed) {
        NumpyOrder generator = new NumpyOrder(seed);
        int[] order = new int[n];
        for (int i = 0; i < n; i++) {
            order[i] = i;
        }
        for (int i = n - 1; i > 0; i--) {
            int j = generator.upTo(i);
            int moved = order[j];
            order[j] = order[i];
            order[i] = moved;
        }
        return order;
    }

    /** Each number as its 32-bit words, least first, and 0 as one of them. */
    private static int[] words(long[] entropy) {
        int[] words = new int[2 * entropy.length];
        int n = 0;
        for (long number : entropy) {
            if (number < 0) {
                throw new FedmeterException.Usage("a seed of " + number + ": it is from 0.");
            }
            words[n++] = (int) number;
            if (number > WORD) {
                words[n++] = (int) (number >>> 32);
            }
        }
        return java.util.Arrays.copyOf(words, n);
    }

    private int[] pool(int[] words) {
        int[] pool = new int[POOL];
        for (int i = 0; i < POOL; i++) {
            pool[i] = hashed(i < words.length ? words[i] : 0);
        }
        for (int from = 0; from < POOL; from++) {
            for (int to = 0; to < POOL; to++) {
                if (from != to) {
                    pool[to] = mixed(pool[to], hashed(pool[from]));
                }
            }
        }
        for (int from = POOL; from < words.length; from++) {
            for (int to = 0; to < POOL; to++) {
                pool[to] = mixed(pool[to], hashed(words[from]));
            }
        }
        return pool;
    }

    private int hashed(int value) {
        value ^= hash;
        hash *= MULT_A;
        value *= hash;
        return value ^ value >>> 16;
    }

    private static int mixed(int x, int y) {
        int result = MIX_L * x - MIX_R * y;
        return result ^ result >>> 16;
    }

    /** Four words of 64 bits. */
    private static long[] state(int[] pool) {
        long[] state = new long[POOL];
        int hash = INIT_B;
        for (int i = 0; i < 2 * POOL; i++) {
            int value = pool[i % POOL] ^ hash;
            hash *= MULT_B;
            value *= hash;
            value ^= value >>> 16;
            state[i / 2] |= (value & WORD) << 32 * (i % 2);
        }
        return state;
    }

    /** state = state * multiplier + increment, in 128 bits. */
    private void step() {
        long low = stateLow * MULTIPLIER_LOW;
        stateHigh = highOfProduct(stateLow, MULTIPLIER_LOW) + stateHigh * MULTIPLIER_LOW + stateLow * MULTIPLIER_HIGH;
        stateLow = low;
        add(incrementHigh, incrementLow);
    }

    private void add(long high, long low) {
        stateLow += low;
        stateHigh += high + (Long.compareUnsigned(stateLow, low) < 0 ? 1 : 0);
    }

    /** The upper 64 of 128 bits, of numbers without a sign; Math.multiplyHigh is not there on older Androids. */
    private static long highOfProduct(long a, long b) {
        long lows = (a & WORD) * (b & WORD);
        long middle = (a >>> 32) * (b & WORD) + (lows >>> 32);
        long other = (a & WORD) * (b >>> 32) + (middle & WORD);
        return (a >>> 32) * (b >>> 32) + (middle >>> 32) + (other >>> 32);
    }

    private int next32() {
        hasKept = !hasKept;
        if (!hasKept) {
            return kept;
        }
        step();
        long drawn = Long.rotateRight(stateHigh ^ stateLow, (int) (stateHigh >>> 58));
        kept = (int) (drawn >>> 32);
        return (int) drawn;
    }

    /** From 0 to {@code most}, each as likely: as many bits as it has, drawn anew where they are more than it. */
    private int upTo(int most) {
        int mask = -1 >>> Integer.numberOfLeadingZeros(most);
        int drawn = next32() & mask;
        while (drawn > most) {
            drawn = next32() & mask;
        }
        return drawn;
    }
}
