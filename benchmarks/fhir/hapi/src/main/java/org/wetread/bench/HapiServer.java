package org.wetread.bench;

import ca.uhn.fhir.batch2.jobs.config.Batch2JobsConfig;
import ca.uhn.fhir.batch2.jobs.export.BulkDataExportProvider;
import ca.uhn.fhir.batch2.maintenance.JobMaintenanceServiceImpl;
import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.context.support.IValidationSupport;
import ca.uhn.fhir.jpa.api.IDaoRegistry;
import ca.uhn.fhir.jpa.api.config.JpaStorageSettings;
import ca.uhn.fhir.jpa.api.config.ThreadPoolFactoryConfig;
import ca.uhn.fhir.jpa.api.dao.IFhirSystemDao;
import ca.uhn.fhir.jpa.batch2.JpaBatch2Config;
import ca.uhn.fhir.jpa.binstore.DatabaseBinaryContentStorageSvcImpl;
import ca.uhn.fhir.jpa.config.HibernatePropertiesProvider;
import ca.uhn.fhir.jpa.config.r4.JpaR4Config;
import ca.uhn.fhir.jpa.config.util.HapiEntityManagerFactoryUtil;
import ca.uhn.fhir.jpa.config.util.ResourceCountCacheUtil;
import ca.uhn.fhir.jpa.dao.FulltextSearchSvcImpl;
import ca.uhn.fhir.jpa.dao.IFulltextSearchSvc;
import ca.uhn.fhir.jpa.dao.search.HSearchSortHelperImpl;
import ca.uhn.fhir.jpa.dao.search.IHSearchSortHelper;
import ca.uhn.fhir.jpa.model.config.PartitionSettings;
import ca.uhn.fhir.jpa.model.config.SubscriptionSettings;
import ca.uhn.fhir.jpa.model.dialect.HapiFhirPostgresDialect;
import ca.uhn.fhir.jpa.provider.DaoRegistryResourceSupportedSvc;
import ca.uhn.fhir.jpa.provider.IJpaSystemProvider;
import ca.uhn.fhir.jpa.provider.JpaCapabilityStatementProvider;
import ca.uhn.fhir.jpa.search.DatabaseBackedPagingProvider;
import ca.uhn.fhir.jpa.search.IStaleSearchDeletingSvc;
import ca.uhn.fhir.jpa.search.StaleSearchDeletingSvcImpl;
import ca.uhn.fhir.jpa.subscription.channel.config.SubscriptionChannelConfig;
import ca.uhn.fhir.jpa.subscription.match.config.SubscriptionProcessorConfig;
import ca.uhn.fhir.jpa.subscription.match.deliver.email.IEmailSender;
import ca.uhn.fhir.jpa.subscription.submit.config.SubscriptionSubmitterConfig;
import ca.uhn.fhir.jpa.util.ResourceCountCache;
import ca.uhn.fhir.narrative2.NullNarrativeGenerator;
import ca.uhn.fhir.rest.api.IResourceSupportedSvc;
import ca.uhn.fhir.rest.server.RestfulServer;
import ca.uhn.fhir.rest.server.interceptor.RequestValidatingInterceptor;
import ca.uhn.fhir.rest.server.provider.ResourceProviderFactory;
import ca.uhn.fhir.rest.server.util.ISearchParamRegistry;
import ca.uhn.fhir.validation.IValidatorModule;
import ca.uhn.fhir.validation.ResultSeverityEnum;
import com.zaxxer.hikari.HikariDataSource;
import jakarta.persistence.EntityManagerFactory;
import java.util.List;
import java.util.Map;
import java.util.Set;
import javax.sql.DataSource;
import org.hibernate.dialect.Dialect;
import org.hl7.fhir.dstu2.model.Subscription;
import org.springframework.beans.factory.config.AutowireCapableBeanFactory;
import org.springframework.beans.factory.config.BeanPostProcessor;
import org.springframework.beans.factory.config.ConfigurableListableBeanFactory;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.ImportAutoConfiguration;
import org.springframework.boot.autoconfigure.web.servlet.ServletWebServerFactoryAutoConfiguration;
import org.springframework.boot.web.servlet.ServletRegistrationBean;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Import;
import org.springframework.context.annotation.Primary;
import org.springframework.core.env.Environment;
import org.springframework.orm.jpa.JpaTransactionManager;
import org.springframework.orm.jpa.LocalContainerEntityManagerFactoryBean;

/**
 * HAPI FHIR's JPA server for R4 on PostgreSQL, with the storage settings that its starter comes with, and bulk export on.
 * Told by -Dserver.port, -Dbench.database (a JDBC URL), -Dbench.user, -Dbench.password, -Dbench.validate and
 * -Dbench.subscriptions (rest-hooks).
 */
@Configuration
@ImportAutoConfiguration(ServletWebServerFactoryAutoConfiguration.class)
@Import({
    JpaR4Config.class,
    JpaBatch2Config.class,
    Batch2JobsConfig.class,
    ThreadPoolFactoryConfig.class,
    SubscriptionSubmitterConfig.class,
    SubscriptionProcessorConfig.class,
    SubscriptionChannelConfig.class
})
public class HapiServer {

    public static void main(String[] arguments) {
        SpringApplication application = new SpringApplication(HapiServer.class);
        application.setAllowCircularReferences(true);
        application.run(arguments);
    }

    @Bean
    public DataSource dataSource(Environment told) {
        HikariDataSource pool = new HikariDataSource();
        pool.setJdbcUrl(told.getRequiredProperty("bench.database"));
        pool.setUsername(told.getRequiredProperty("bench.user"));
        pool.setPassword(told.getProperty("bench.password", ""));
        pool.setMaximumPoolSize(20);
        return pool;
    }

    @Bean
    @Primary
    public LocalContainerEntityManagerFactoryBean entityManagerFactory(
            DataSource source, ConfigurableListableBeanFactory beans, FhirContext context, JpaStorageSettings settings) {
        LocalContainerEntityManagerFactoryBean made =
                HapiEntityManagerFactoryUtil.newEntityManagerFactory(beans, context, settings);
        made.setPersistenceUnitName("HAPI_PU");
        made.setDataSource(source);
        made.setJpaPropertyMap(Map.of(
                "hibernate.dialect", HapiFhirPostgresDialect.class.getName(),
                "hibernate.hbm2ddl.auto", "update",
                "hibernate.jdbc.batch_size", "20",
                "hibernate.cache.use_query_cache", "false",
                "hibernate.cache.use_second_level_cache", "false",
                "hibernate.cache.use_structured_entries", "false",
                "hibernate.cache.use_minimal_puts", "false",
                "hibernate.search.enabled", "false"));
        return made;
    }

    @Bean
    @Primary
    public JpaTransactionManager transactionManager(EntityManagerFactory factory) {
        return new JpaTransactionManager(factory);
    }

    @Bean
    @Primary
    public HibernatePropertiesProvider hibernateProperties() {
        Dialect dialect = new HapiFhirPostgresDialect();
        return new HibernatePropertiesProvider() {
            @Override
            public Dialect getDialect() {
                return dialect;
            }
        };
    }

    @Bean
    public JpaStorageSettings storageSettings() {
        JpaStorageSettings settings = new JpaStorageSettings();
        settings.setAllowContainsSearches(true);
        settings.setFilterParameterEnabled(true);
        settings.setExpungeEnabled(true);
        settings.setReuseCachedSearchResultsForMillis(60_000L);
        settings.setExpireSearchResultsAfterMillis(3_600_000L);
        // And notifications of subscriptions, which are Bundles of type history.
        settings.setBundleTypesAllowedForStorage(Set.of("collection", "document", "message", "history"));
        settings.setSearchPreFetchThresholds(List.of(13, 503, 2003, -1));
        settings.setTreatReferencesAsLogical(Set.of(
                "http://terminology.hl7.org/*", "https://terminology.hl7.org/*",
                "http://snomed.info/*", "https://snomed.info/*", "http://unitsofmeasure.org/*",
                "https://unitsofmeasure.org/*", "http://loinc.org/*", "https://loinc.org/*"));
        return settings;
    }

    /** Its batch jobs take a step each second, where a minute is usual: an export would wait most of the time. */
    @Bean
    public static BeanPostProcessor quickerBatchJobs() {
        return new BeanPostProcessor() {
            @Override
            public Object postProcessAfterInitialization(Object bean, String name) {
                if (bean instanceof JobMaintenanceServiceImpl maintenance) {
                    maintenance.setScheduledJobFrequencyMillis(1_000);
                }
                return bean;
            }
        };
    }

    @Bean
    public PartitionSettings partitionSettings() {
        return new PartitionSettings();
    }

    @Bean
    public SubscriptionSettings subscriptionSettings(Environment told) {
        SubscriptionSettings settings = new SubscriptionSettings();
        if (told.getProperty("bench.subscriptions", Boolean.class, false)) {
            settings.addSupportedSubscriptionType(Subscription.SubscriptionChannelType.RESTHOOK);
        }
        return settings;
    }

    @Bean
    public IEmailSender emailSender() {
        return details -> {};
    }

    @Bean
    public DatabaseBinaryContentStorageSvcImpl binaryStorage() {
        return new DatabaseBinaryContentStorageSvcImpl();
    }

    @Bean
    public IFulltextSearchSvc fullTextSearch() {
        return new FulltextSearchSvcImpl();
    }

    @Bean
    public IHSearchSortHelper sortHelper(ISearchParamRegistry parameters) {
        return new HSearchSortHelperImpl(parameters);
    }

    @Bean
    public IStaleSearchDeletingSvc staleSearches() {
        return new StaleSearchDeletingSvcImpl();
    }

    @Bean
    public DatabaseBackedPagingProvider paging() {
        DatabaseBackedPagingProvider paging = new DatabaseBackedPagingProvider();
        paging.setDefaultPageSize(20);
        paging.setMaximumPageSize(1000);
        return paging;
    }

    @Bean
    public IResourceSupportedSvc supportedResources(IDaoRegistry registry) {
        return new DaoRegistryResourceSupportedSvc(registry);
    }

    @Bean(name = "myResourceCountsCache")
    public ResourceCountCache resourceCounts(IFhirSystemDao<?, ?> system) {
        return ResourceCountCacheUtil.newResourceCountCache(system);
    }

    @Bean
    public ServletRegistrationBean<RestfulServer> server(
            Environment told,
            AutowireCapableBeanFactory beans,
            IFhirSystemDao<?, ?> system,
            IJpaSystemProvider systemProvider,
            ResourceProviderFactory resourceProviders,
            JpaStorageSettings settings,
            ISearchParamRegistry parameters,
            IValidationSupport definitions,
            IValidatorModule validator,
            DatabaseBackedPagingProvider paging,
            BulkDataExportProvider export) {
        FhirContext context = system.getContext();
        context.setNarrativeGenerator(new NullNarrativeGenerator());
        RestfulServer server = new RestfulServer(context);
        server.registerProviders(resourceProviders.createProviders());
        server.registerProvider(systemProvider);
        server.registerProvider(export);
        server.setServerConformanceProvider(
                new JpaCapabilityStatementProvider(server, system, settings, parameters, definitions));
        server.setPagingProvider(paging);
        server.setDefaultPrettyPrint(false);
        if (told.getProperty("bench.validate", Boolean.class, false)) {
            RequestValidatingInterceptor interceptor = new RequestValidatingInterceptor();
            interceptor.setFailOnSeverity(ResultSeverityEnum.ERROR);
            interceptor.setValidatorModules(List.of(validator));
            server.registerInterceptor(interceptor);
        }
        beans.autowireBean(server);
        ServletRegistrationBean<RestfulServer> registration = new ServletRegistrationBean<>(server, "/fhir/*");
        registration.setLoadOnStartup(1);
        return registration;
    }
}
