package fedmeter.client;

import fedmeter.measurement.MeasurementOuterClass.Reading;

/** One source that is sampled, and what was drawn between two moments by its samples. For several threads. */
public interface EnergyMeter {
    /** How often it is worth sampling, in seconds. */
    double minPeriodS();

    /** Asks the source once. Spans do so at their edges, since a window needs samples at both. */
    void sample();

    /** Not from before the oldest sample that is kept; missing, with the reason, where samples do not tell. */
    Reading between(long beginNs, long endNs);
}
