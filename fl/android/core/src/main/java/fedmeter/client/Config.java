package fedmeter.client;

import java.util.Collections;
import java.util.Map;
import java.util.TreeMap;

/** Scalars by name, as the wire carries them: Boolean, Long, java.math.BigInteger, Double, String or byte[]. */
public final class Config {
    public static final Config EMPTY = new Config(Collections.emptyMap());

    private final Map<String, Object> values;

    public Config(Map<String, ?> values) {
        this.values = Collections.unmodifiableMap(new TreeMap<>(values));
    }

    public Map<String, Object> values() {
        return values;
    }

    public boolean has(String key) {
        return values.containsKey(key);
    }

    /** Throws Usage where it is no whole number. */
    public long whole(String key, long otherwise) {
        Object value = values.getOrDefault(key, otherwise);
        if (!(value instanceof Long)) {
            throw new FedmeterException.Usage("config: " + key + " = " + shown(value) + ": a whole number is needed.");
        }
        return (Long) value;
    }

    /** Throws Usage where it is no whole number from 1 that an int holds. */
    public int atLeastOne(String key, int otherwise) {
        long value = whole(key, otherwise);
        if (value < 1 || value > Integer.MAX_VALUE) {
            throw new FedmeterException.Usage("config: " + key + " = " + value + ": a whole number from 1 is needed.");
        }
        return (int) value;
    }

    /** Throws Usage where it is no finite number from 0. */
    public double notNegative(String key, double otherwise) {
        Object value = values.getOrDefault(key, otherwise);
        double number = value instanceof Long || value instanceof Double ? ((Number) value).doubleValue() : Double.NaN;
        if (!(number >= 0 && number < Double.POSITIVE_INFINITY)) {
            throw new FedmeterException.Usage(
                    "config: " + key + " = " + shown(value) + ": a finite number from 0 is needed.");
        }
        return number;
    }

    /** The text of that name, or the empty one where it is none. */
    public String text(String key) {
        Object value = values.get(key);
        return value instanceof String ? (String) value : "";
    }

    private static String shown(Object value) {
        String text = String.valueOf(value);
        return text.length() > 40 ? text.substring(0, 40) : text;
    }
}
