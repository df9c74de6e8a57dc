package fedmeter.client;

/** Something that counts up the joules that this device has drawn: a battery's charge counter, say. */
public interface EnergySource {
    /** Its name in the records, as {@code battery-charge}. */
    String rail();

    /** What it covers, in the words of measurement.proto. */
    String scope();

    /** {@code counter} where hardware counts energy, {@code integrated} where a charge is multiplied by a voltage. */
    String provenance();

    /** How long it takes to show another value, in seconds: it is asked as often. */
    double minPeriodS();

    /** Relative error of a difference, k = 2. */
    double gainErr();

    /** The step that it counts in, in joules. */
    double resolutionJ();

    /**
     * Joules drawn since some moment that stays the same. Throws UnavailableException, which says why, where that is
     * not known: what was counted before then belongs to another course.
     */
    double energyJ() throws PowerSource.UnavailableException;
}
